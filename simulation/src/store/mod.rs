//! The shared session store, in memory and in virtual time.
