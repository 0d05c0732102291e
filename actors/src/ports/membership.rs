//! Who else is in the cluster.

use std::future::Future;
use std::pin::Pin;

use hydrant_protocol::cluster::{Load, Member, MembershipView};
use tokio::sync::watch;

/// What joining and leaving return; the error is one sentence that says what to do.
pub type MembershipFuture<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'static>>;

/// Makes this node known to the others, and the others to it. Whatever happens to the service
/// behind it, the members that were known last stay known.
pub trait Membership: Send + Sync + 'static {
    /// Registers this node and follows the others until [`Self::leave`]; called once. Resolves with
    /// the first view in which this node stands.
    ///
    /// # Errors
    /// A live node has the same id, or the service cannot be used.
    fn join(&self, me: Member) -> MembershipFuture<watch::Receiver<MembershipView>>;
    /// What the others are shown of this node from now on; seldom, some seconds apart.
    fn update(&self, load: Load, draining: bool);
    /// Whether this node stands among the members. False takes its entry out while it goes on following the others:
    /// they take it for lost, and the views it gets are without it. True puts the entry back, in the same incarnation.
    /// Cheap, and changes nothing where that is so already.
    fn present(&self, present: bool);
    /// Takes this node out at once: nobody waits for a session to time out.
    fn leave(&self) -> MembershipFuture<()>;
    /// One line for `broker tree`.
    fn describe(&self) -> String;
}
