//! How an actor ended, and how that is found out: panics are caught where the actor is polled,
//! and the panic hook remembers where they happened.
//!
//! Cost: a caught poll is two thread-local writes and no allocation.
//! Invariant: a panic inside a caught scope makes no line of its own (who watches the actor writes
//! the one line, with path, message, location and thread); any other panic is one error line.

use crate::say::{self, Reason};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};

/// How an actor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitStatus {
    /// It stopped by itself without a failure.
    Stopped,
    /// It said that it cannot go on, and stopped.
    Failed(String),
    /// Its code panicked: the message, and where when the hook is installed.
    Panicked(String),
    /// Somebody ended it from outside.
    Killed(String),
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            Self::Panicked(reason) => write!(f, "panicked: {reason}"),
            Self::Killed(reason) => write!(f, "was killed: {reason}"),
        }
    }
}

thread_local! {
    /// Nesting of caught scopes on this thread.
    static CAUGHT: Cell<u32> = const { Cell::new(0) };
    /// What the hook saw last on this thread.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs the panic hook (once a process; more calls do nothing). Without it a caught panic has
/// no location and the standard hook prints to stderr.
pub fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| std::panic::set_hook(Box::new(on_panic)));
}

fn on_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let text = match info.location() {
        Some(at) => format!(
            "{} at {}:{} on thread {}",
            payload_text(info.payload()),
            at.file(),
            at.line(),
            thread.name().unwrap_or("?")
        ),
        None => {
            format!("{} on thread {}", payload_text(info.payload()), thread.name().unwrap_or("?"))
        }
    };
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        static TRACES: Reason = Reason::new();
        TRACES.say_lines(
            say::Level::Error,
            "hydrant::actors",
            format_args!("backtrace of {text}\n{trace}"),
        );
    }
    let caught = CAUGHT.try_with(Cell::get).unwrap_or(0) > 0;
    // A second panic while the first unwinds ends the process: nobody is left to tell of it.
    let fresh = LAST.try_with(|last| match last.try_borrow_mut() {
        Ok(mut last) => last.replace(text.clone()).is_none(),
        Err(_) => false,
    });
    if !caught || !fresh.unwrap_or(false) {
        say::error!(target: "hydrant::actors", "panic outside supervision: {text}");
        // The process may end with it.
        ::log::logger().flush();
    }
    if !caught {
        LAST.try_with(|last| last.try_borrow_mut().map(|mut last| *last = None).ok()).ok();
    }
}

/// The message of a panic's payload.
pub fn payload_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a payload that is not text".to_owned()
    }
}

/// Runs `work`; a panic becomes [`ExitStatus::Panicked`].
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, ExitStatus> {
    CAUGHT.with(|depth| depth.set(depth.get() + 1));
    let result = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.with(|depth| depth.set(depth.get() - 1));
    result.map_err(|payload| {
        let seen = LAST.with(|last| last.borrow_mut().take());
        let text = seen.unwrap_or_else(|| payload_text(&*payload));
        // A payload's own drop may panic; it is given one chance only.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(payload)));
        ExitStatus::Panicked(text)
    })
}

/// A future whose panics are caught, those of its drop too. After a panic it is dropped at once.
#[derive(Debug)]
pub struct Caught<F: Future + Unpin> {
    inner: Option<F>,
}

impl<F: Future + Unpin> Caught<F> {
    /// Wraps `future`.
    pub fn new(future: F) -> Self {
        Self { inner: Some(future) }
    }

    fn discard(&mut self) -> Result<(), ExitStatus> {
        match self.inner.take() {
            Some(inner) => catch(move || drop(inner)),
            None => Ok(()),
        }
    }
}

impl<F: Future + Unpin> Future for Caught<F> {
    type Output = Result<F::Output, ExitStatus>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(inner) = this.inner.as_mut() else {
            return Poll::Pending;
        };
        match catch(|| Pin::new(inner).poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(this.discard().map(|()| value)),
            Err(status) => {
                let _ = this.discard();
                Poll::Ready(Err(status))
            }
        }
    }
}

impl<F: Future + Unpin> Drop for Caught<F> {
    fn drop(&mut self) {
        if let Err(status) = self.discard() {
            say::error!(target: "hydrant::actors", "an actor {status} while it was dropped");
        }
    }
}
