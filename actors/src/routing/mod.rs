//! Who drives the routing of a worker's publishes; what is routed stands in [`worker`](crate::worker).

pub mod router;
