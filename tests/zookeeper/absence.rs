//! ZooKeeper goes away and comes back: the members stay.

use std::time::Duration;

use hydrant_actors::ports::Membership as _;
use hydrant_protocol::cluster::MembershipView;

use crate::peer::{Peer, Place, logged, shown};
use crate::support::zookeeper::Zookeeper;
use crate::support::{SOON, eventually};

/// Waits until ZooKeeper has been away for so long in the eyes of this member.
#[track_caller]
fn await_away(peer: &Peer, seconds: u64) {
    eventually(SOON, "ZooKeeper is away", || {
        let said = peer.membership.describe();
        let away = said.split_once("away for ").and_then(|(_, rest)| rest.split_once(" s"));
        !peer.current() && away.is_some_and(|(for_, _)| for_.parse::<u64>().unwrap() >= seconds)
    });
}

/// All of these views hold these members, and the generation never falls.
#[track_caller]
fn assert_stable(views: &[MembershipView], members: &str) {
    for view in views {
        assert_eq!(shown(view), members, "{views:#?}");
    }
    assert!(views.is_sorted_by_key(|view| view.generation), "{views:#?}");
}

#[test]
fn a_killed_and_restarted_zookeeper_ends_no_member() {
    let mut zookeeper = Zookeeper::start();
    let place = Place::new(&zookeeper, 1);
    let (n1, n2) = (place.join("kill-1", 1), place.join("kill-2", 1));
    n1.await_members("kill-1/1 kill-2/1");
    n2.await_members("kill-1/1 kill-2/1");
    let (views1, views2) = (n1.record(), n2.record());
    // Longer than the client keeps a session by itself.
    zookeeper.kill9();
    await_away(&n1, 3);
    await_away(&n2, 3);
    assert!(n1.membership.describe().ends_with("2 members known"), "{}", n1.membership.describe());
    zookeeper.restart();
    n1.await_members("kill-1/1 kill-2/1");
    n2.await_members("kill-1/1 kill-2/1");
    // Both are registered with new sessions, not only remembered: a third sees them.
    let n3 = place.join("kill-3", 1);
    n3.await_members("kill-1/1 kill-2/1 kill-3/1");
    assert_stable(&before(views1.done(), "kill-3"), "kill-1/1 kill-2/1");
    assert_stable(&before(views2.done(), "kill-3"), "kill-1/1 kill-2/1");
    n1.await_members("kill-1/1 kill-2/1 kill-3/1");
    n2.await_members("kill-1/1 kill-2/1 kill-3/1");
    assert_eq!(n3.leave(), Ok(()));
    n1.await_members("kill-1/1 kill-2/1");
    let address = zookeeper.address();
    assert_eq!(logged(&format!("WARN ZooKeeper {address}{} is away", place.options.chroot)), 2);
    assert_eq!(logged(&format!("INFO ZooKeeper {address}{} is back", place.options.chroot)), 2);
}

fn before(views: Vec<MembershipView>, node_id: &str) -> Vec<MembershipView> {
    views.into_iter().take_while(|view| view.member(node_id).is_none()).collect()
}

#[test]
fn a_member_that_does_not_come_back_leaves_after_its_grace() {
    let mut zookeeper = Zookeeper::start();
    let place = Place::new(&zookeeper, 2);
    let (n1, n2) = (place.join("grace-1", 1), place.join("grace-2", 1));
    n1.await_members("grace-1/1 grace-2/1");
    zookeeper.kill9();
    await_away(&n1, 0);
    assert!(n2.leave().unwrap_err().contains("goes when its session times out"));
    drop(n2);
    // It comes back empty: nobody is registered, the parents are gone.
    zookeeper.forget();
    let views = n1.record();
    zookeeper.restart();
    n1.await_members("grace-1/1");
    let views = views.done();
    let known = views.iter().filter(|view| view.current && view.members.len() == 2).count();
    assert!(known > 0, "it was known for a while: {views:#?}");
    assert!(views.is_sorted_by_key(|view| view.generation), "{views:#?}");
    assert_eq!(logged("INFO member grace-2 left"), 1);
}

#[test]
fn a_zookeeper_that_answers_nothing_is_away() {
    let zookeeper = Zookeeper::start();
    let place = Place::new(&zookeeper, 2);
    let (n1, n2) = (place.join("mute-1", 1), place.join("mute-2", 1));
    n1.await_members("mute-1/1 mute-2/1");
    let views = n1.record();
    zookeeper.pause();
    await_away(&n1, 0);
    // What is told meanwhile is written later.
    let load = hydrant_protocol::cluster::Load { connections: 7, max_connections: 9 };
    n2.membership.update(load, false);
    zookeeper.resume();
    n1.await_members("mute-1/1 mute-2/1");
    eventually(SOON, "the load is seen", || {
        n1.view.borrow().member("mute-2").is_some_and(|member| member.load == load)
    });
    assert_stable(&views.done(), "mute-1/1 mute-2/1");
    let began = std::time::Instant::now();
    zookeeper.pause();
    await_away(&n1, 0);
    assert!(n1.leave().is_err() && began.elapsed() < Duration::from_secs(20));
    zookeeper.resume();
}
