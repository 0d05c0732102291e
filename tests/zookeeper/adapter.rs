//! Members that find each other, one that comes back, one that ends.

use std::time::{Duration, Instant};

use hydrant_actors::ports::Membership as _;
use hydrant_protocol::cluster::Load;

use crate::peer::{CLUSTER, Place, block_on, json, logged, member, shown};
use crate::support::zookeeper::shared;
use crate::support::{SOON, eventually};

#[test]
fn three_members_see_each_other_and_what_they_tell() {
    let place = Place::new(shared(), 10);
    let n2 = place.join("sight-2", 7);
    assert_eq!((n2.sees(), n2.current()), ("sight-2/7".to_owned(), true));
    let (n1, n3) = (place.join("sight-1", 5), place.join("sight-3", 6));
    for peer in [&n1, &n2, &n3] {
        peer.await_members("sight-1/5 sight-2/7 sight-3/6");
    }
    let digest = |peer: &crate::peer::Peer| peer.view.borrow().digest();
    assert_eq!((digest(&n1), digest(&n2)), (digest(&n2), digest(&n3)));
    assert_eq!(n1.view.borrow().member("sight-3"), Some(&member("sight-3", 6)));
    let at = format!("zookeeper {}{}", shared().address(), place.options.chroot);
    assert_eq!(n1.membership.describe(), format!("{at}, 3 members"));
    assert_eq!(logged("INFO member sight-1 joined (incarnation 5, peer sight-1.example:7883)"), 2);

    // What is told often is written seldom, and the last of it counts.
    let began = Instant::now();
    let generation = n1.view.borrow().generation;
    for connections in 1..=50 {
        n3.membership.update(Load { connections, max_connections: 100 }, connections == 50);
        eventually(SOON, "it was taken", || {
            let view = n3.view.borrow();
            view.member("sight-3").is_some_and(|member| member.load.connections == connections)
        });
    }
    eventually(SOON, "the load is seen", || {
        let view = n1.view.borrow();
        view.member("sight-3").is_some_and(|m| m.load.connections == 50 && m.draining)
    });
    let client = place.raw(10);
    let (_, stat) = block_on(client.get_data(&place.entry("sight-3"))).unwrap();
    let seconds = began.elapsed().as_secs() as i32;
    assert!(stat.version <= seconds + 2, "{} writes in {seconds} s", stat.version);
    assert_eq!(n1.view.borrow().generation, generation);

    let began = Instant::now();
    assert_eq!(n2.leave(), Ok(()));
    n1.await_members("sight-1/5 sight-3/6");
    assert!(began.elapsed() < Duration::from_secs(8), "no session had to time out");
    assert!(n1.view.borrow().generation > generation && !n2.current());
    n3.await_members("sight-1/5 sight-3/6");
    assert_eq!(logged("INFO member sight-2 left"), 2);
    // It may come again at once.
    let n2 = place.join("sight-2", 8);
    n1.await_members("sight-1/5 sight-2/8 sight-3/6");
    drop(n2);
}

#[test]
fn one_that_ends_without_leaving_is_gone_after_its_session() {
    let place = Place::new(shared(), 1);
    let n1 = place.join("end-1", 1);
    let n2 = place.raw(1);
    place.put(&n2, "end-2", &json(CLUSTER, "end-2", 1, "b:1"));
    n1.await_members("end-1/1 end-2/1");
    drop(n2);
    n1.await_members("end-1/1");
}

#[test]
fn an_earlier_start_of_ours_does_not_block_a_restart() {
    let place = Place::new(shared(), 10);
    let n1 = place.join("again-1", 1);
    let earlier = place.raw(10);
    place.put(&earlier, "again-2", &json(CLUSTER, "again-2", 3, "again-2.example:7883"));
    drop(earlier);
    n1.await_members("again-1/1 again-2/3");
    let views = n1.record();
    let began = Instant::now();
    let n2 = place.join("again-2", 4);
    assert!(began.elapsed() < Duration::from_secs(8), "no session had to time out");
    n1.await_members("again-1/1 again-2/4");
    assert!(views.done().iter().all(|view| view.members.len() == 2), "it was never missing");
    assert_eq!(n2.sees(), "again-1/1 again-2/4");
}

#[test]
fn an_entry_taken_out_by_hand_is_put_back() {
    let place = Place::new(shared(), 10);
    let (n1, n2) = (place.join("hand-1", 1), place.join("hand-2", 1));
    n1.await_members("hand-1/1 hand-2/1");
    let client = place.raw(10);
    let entry = place.entry("hand-2");
    block_on(client.delete(&entry, None)).unwrap();
    eventually(SOON, "it is there again", || {
        block_on(client.check_stat(&entry)).unwrap().is_some()
    });
    n1.await_members("hand-1/1 hand-2/1");
    n2.await_members("hand-1/1 hand-2/1");
    // With the other and the parent, in one step.
    block_on(async {
        let mut step = client.new_multi_writer();
        step.add_delete(&entry, None).unwrap();
        step.add_delete(&place.entry("hand-1"), None).unwrap();
        step.add_delete(&format!("{}/members", place.options.chroot), None).unwrap();
        step.commit().await.unwrap();
    });
    eventually(SOON, "both are there again", || {
        let entries = ["hand-1", "hand-2"].map(|name| place.entry(name));
        entries.iter().all(|path| block_on(client.check_stat(path)).unwrap().is_some())
    });
    n1.await_members("hand-1/1 hand-2/1");
    n2.await_members("hand-1/1 hand-2/1");
}

#[test]
fn entries_that_are_none_of_the_cluster_are_ignored_and_said_once() {
    let place = Place::new(shared(), 10);
    let raw = place.raw(10);
    place.put(&raw, "odd-broken", "not json");
    place.put(&raw, "odd-foreign", &json("other", "odd-foreign", 1, "b:1"));
    place.put(&raw, "odd-newer", "{\"format\":9,\"cluster\":\"test\"}");
    place.put(&raw, "odd-huge", &" ".repeat(9000));
    let n1 = place.join("odd-1", 1);
    let n2 = place.join("odd-2", 1);
    n1.await_members("odd-1/1 odd-2/1");
    // It is read again, and is the same.
    block_on(raw.set_data(&place.entry("odd-broken"), b"not json", None)).unwrap();
    let good = json(CLUSTER, "odd-foreign", 2, "b:1");
    block_on(raw.set_data(&place.entry("odd-foreign"), good.as_bytes(), None)).unwrap();
    for peer in [&n1, &n2] {
        peer.await_members("odd-1/1 odd-2/1 odd-foreign/2");
    }
    assert_eq!(logged("members/odd-broken in ZooKeeper is ignored: it is malformed"), 2);
    assert_eq!(logged("members/odd-foreign in ZooKeeper is ignored: it is of cluster"), 2);
    assert_eq!(logged("members/odd-newer in ZooKeeper is ignored: its format is 9"), 2);
    assert_eq!(logged("members/odd-huge in ZooKeeper is ignored: it has 9000 bytes"), 2);
    assert_eq!(shown(&n2.view.borrow()), "odd-1/1 odd-2/1 odd-foreign/2");
}
