//! What clients can fill is bounded in bytes: routes, sessions, buffers, and what waits for the store.

use super::*;
use crate::metrics::DropReason;
use crate::ports::op_cost;
use crate::ports::{SessionOp, StoredWill};
use crate::worker::route::LONGEST_CACHED;
use crate::worker::state::sessions::{Charge, SESSION};

fn route_bytes(worker: &Rc<Worker>) -> usize {
    worker.metrics.route_bytes.get() as usize
}

#[test]
fn routes_are_cached_within_their_bytes_and_long_topics_are_not() {
    let mut settings = settings(1);
    settings.limits.route_cache_entries = 1_000_000;
    settings.limits.route_cache_bytes = 64 * 1024;
    let worker = worker_with(settings);
    for n in 0..1000 {
        worker.route(&format!("{n}/{}", "x".repeat(900)));
        assert!(route_bytes(&worker) <= 64 * 1024);
    }
    assert!(route_bytes(&worker) > 1000);
    let evictions = worker.metrics.route_evictions.get();
    assert!(evictions > 900 && evictions < 1000, "{evictions}");
    // One by one: what others come back to stays.
    let (before, misses) = (route_bytes(&worker), worker.metrics.route_misses.get());
    for n in 0..100 {
        worker.route(&format!("{n}/{}", "x".repeat(LONGEST_CACHED)));
    }
    worker.route(&format!("999/{}", "x".repeat(900)));
    assert_eq!(route_bytes(&worker), before);
    assert_eq!(worker.metrics.route_misses.get(), misses + 100);
    assert_eq!(worker.metrics.route_evictions.get(), evictions);
}

#[test]
fn clients_that_subscribe_to_topics_of_their_own_leave_the_routes_of_others() {
    let mut settings = settings(1);
    settings.limits.route_cache_entries = 1000;
    settings.limits.route_cache_bytes = 1024 * 1024;
    let worker = worker_with(settings);
    let topics: Vec<String> = (0..100).map(|n| format!("hot/{n}")).collect();
    let route_all = || topics.iter().for_each(|topic| drop(worker.route(topic)));
    route_all();
    let misses = worker.metrics.route_misses.get();
    let subscriber = |slot| crate::subscriptions::Subscriber { worker: 0, persistent: false, slot };
    let subscribe = |filter: &str, slot| {
        let filter = TopicFilter::parse(filter, &wire::Limits::PROTOCOL).unwrap();
        worker.set_subscription(&filter, subscriber(slot), QoS::AtMostOnce);
    };
    for slot in 0..50 {
        subscribe(&format!("device/{slot}/command"), slot);
    }
    route_all();
    // 50 of 1024 stripes were touched: about five topics of a hundred stand in one of these.
    let again = worker.metrics.route_misses.get() - misses;
    assert!(again <= 20, "{again} of 100 were looked up again");
    // Their own routes know them, also where a route was cached before.
    assert_eq!(worker.route("hot/7").local.len(), 0);
    subscribe("hot/7", 77);
    assert_eq!(worker.route("hot/7").local.len(), 1);
    subscribe("hot/+", 78);
    assert!(topics.iter().all(|topic| !worker.route(topic).local.is_empty()));
}

#[test]
fn a_route_counts_its_subscribers_and_is_counted_once() {
    let mut settings = settings(1);
    settings.limits.route_cache_bytes = 64 * 1024;
    let worker = worker_with(settings);
    worker.route("t");
    let alone = route_bytes(&worker);
    let subscriber = |slot| crate::subscriptions::Subscriber { worker: 0, persistent: false, slot };
    let filter = TopicFilter::parse("t", &wire::Limits::PROTOCOL).unwrap();
    for slot in 0..500 {
        worker.set_subscription(&filter, subscriber(slot), QoS::AtMostOnce);
    }
    worker.route("t");
    assert_eq!(route_bytes(&worker), alone + 500 * size_of::<(u32, QoS)>());
    // One that takes an eighth of the cache is looked up each time.
    for slot in 500..2000 {
        worker.set_subscription(&filter, subscriber(slot), QoS::AtMostOnce);
    }
    assert_eq!(worker.route("t").local.len(), 2000);
    assert_eq!(route_bytes(&worker), 0);
    for slot in 0..2000 {
        worker.remove_subscription(&filter, subscriber(slot));
    }
    worker.route("t");
    assert_eq!(route_bytes(&worker), alone);
}

#[test]
fn what_waits_for_the_store_counts_its_texts() {
    let (long, short): (Arc<str>, Arc<str>) = ("x".repeat(60_000).into(), "x".into());
    let message = |topic: &Arc<str>| {
        let payload = Bytes::from(vec![0; 1000]);
        let topic = Arc::clone(topic);
        Arc::new(Message { topic, payload, qos: QoS::AtMostOnce, retain: true, properties: None })
    };
    let of = |text: &Arc<str>| {
        let (client_id, filter, topic) = (Arc::clone(text), Arc::clone(text), Arc::clone(text));
        let will =
            StoredWill { client_id: Arc::clone(text), connection: 1, message: message(text) };
        let client = Arc::clone(text);
        [
            StoreOp::Session(SessionOp::PutSession {
                id: 1,
                client_id,
                epoch: 1,
                disconnected_ms: None,
            }),
            StoreOp::Session(SessionOp::DeleteSession { id: 1, client_id: client }),
            StoreOp::Session(SessionOp::PutSubscription {
                id: 1,
                filter: Arc::clone(&filter),
                qos: QoS::AtMostOnce,
                owes: None,
            }),
            StoreOp::Session(SessionOp::DeleteSubscription { id: 1, filter }),
            StoreOp::DeleteRetained { topic, version: 1 },
            StoreOp::PutRetained { message: message(text), version: 1 },
            StoreOp::PutWill { will },
            StoreOp::DeleteWill { client_id: Arc::clone(text), connection: 1 },
        ]
    };
    for (op, small) in of(&long).iter().zip(of(&short)) {
        assert!(op_cost(op) - op_cost(&small) >= 59_999, "{small:?}");
        assert!(op_cost(&small) >= size_of::<StoreOp>());
    }
}

fn refused(worker: &Rc<Worker>) -> u64 {
    worker.metrics.filters_refused.get()
}

fn session_bytes(worker: &Rc<Worker>) -> usize {
    worker.shared.metrics.session_bytes.load(Ordering::Relaxed)
}

fn long_filter(n: usize) -> String {
    format!("{n}/{}", "x".repeat(5000))
}

fn unsubscribe(worker: &Rc<Worker>, conn: &Rc<Conn>, filter: &str) {
    let mut packet = Vec::new();
    let filter = TopicFilter::parse(filter, &wire::Limits::PROTOCOL).unwrap();
    wire::put_unsubscribe(&mut packet, PacketId::MIN, &[filter]);
    let Ok(wire::Frame::Complete { first, body, .. }) = wire::next_frame(&packet, 100_000) else {
        panic!("it is whole")
    };
    match wire::decode(first, body, &wire::Limits::PROTOCOL) {
        Ok(wire::Packet::Unsubscribe(packet)) => worker.unsubscribe(conn, packet),
        other => panic!("{other:?}"),
    }
    worker.flush();
    store(worker);
}

#[test]
fn a_session_has_filters_within_its_bytes() {
    for clean in [true, false] {
        let mut settings = settings(1);
        settings.limits.max_subscriptions = 1000;
        let worker = worker_with(settings);
        let client = connect(&worker, clean, None);
        store(&worker);
        let empty = session_bytes(&worker);
        assert!(empty >= SESSION);
        for n in 0..100 {
            subscribe(&worker, &client, &long_filter(n), QoS::AtMostOnce);
        }
        let taken = worker.shared.metrics.subscriptions.get();
        assert!((15..20).contains(&taken), "{taken} of 5,000 bytes within 100,000");
        assert_eq!(refused(&worker), 100 - taken);
        assert!(session_bytes(&worker) <= 100_000);
        // What it has it may have at another QoS; another filter fits where one is given back.
        subscribe(&worker, &client, &long_filter(0), QoS::AtLeastOnce);
        assert_eq!(refused(&worker), 100 - taken);
        unsubscribe(&worker, &client, &long_filter(0));
        subscribe(&worker, &client, &long_filter(99), QoS::AtMostOnce);
        assert_eq!(
            (refused(&worker), worker.shared.metrics.subscriptions.get()),
            (100 - taken, taken)
        );
        for n in 0..100 {
            unsubscribe(&worker, &client, &long_filter(n));
        }
        assert_eq!(session_bytes(&worker), empty);
        worker.detach(&client, CloseReason::Eof);
        assert_eq!(session_bytes(&worker), if clean { 0 } else { empty });
    }
}

#[test]
fn a_filter_with_wildcards_counts_its_levels() {
    let worker = worker(1);
    let client = connect(&worker, true, None);
    let before = session_bytes(&worker);
    let filter = "+/".repeat(199) + "#";
    subscribe(&worker, &client, &filter, QoS::AtMostOnce);
    let deep = session_bytes(&worker) - before;
    assert!(deep >= 200 * 100, "a node of the tree for each");
    subscribe(&worker, &client, &("a/".repeat(199) + "#"), QoS::AtMostOnce);
    assert!(session_bytes(&worker) - before >= 2 * deep + 199 * 100, "and a name");
}

#[test]
fn all_sessions_together_have_their_bytes() {
    let mut settings = settings(1);
    settings.session.max_total_bytes = 10 * (SESSION + 10);
    let worker = worker_with(settings);
    let mut open = Vec::new();
    let refusals = |worker: &Rc<Worker>| {
        worker
            .conns
            .borrow()
            .iter()
            .filter(|(_, conn)| conn.phase().closing() == Some(CloseReason::Refused))
            .count()
    };
    for n in 0..20 {
        open.push(connect_as(&format!("c{n}"), &worker, n % 2 == 0, None));
        store(&worker);
    }
    assert_eq!(worker.session_count(), 10);
    assert_eq!(refusals(&worker), 10);
    // Nor is there room for a filter.
    subscribe(&worker, &open[0], &long_filter(1), QoS::AtMostOnce);
    assert_eq!((refused(&worker), worker.shared.metrics.subscriptions.get()), (1, 0));
    // Who has a session gets it again.
    worker.detach(&open[1], CloseReason::Eof);
    let again = connect_as("c1", &worker, false, None);
    assert_eq!((again.phase().closing(), refusals(&worker)), (None, 10));
    // One that ends makes room for one.
    worker.detach(&open[0], CloseReason::Eof);
    connect_as("n", &worker, true, None);
    connect_as("o", &worker, true, None);
    assert_eq!((worker.session_count(), refusals(&worker)), (10, 11));
}

#[test]
fn packet_ids_without_pubrel_are_within_the_sessions_bytes() {
    let mut settings = settings(1);
    settings.session.max_bytes = SESSION + 10_000;
    let worker = worker_with(settings);
    let client = connect(&worker, true, None);
    let empty = session_bytes(&worker);
    let mut held = 0;
    for n in 1..=u16::MAX {
        let id = PacketId::new(n).unwrap();
        if worker.handle_qos2_publish(&client, id).is_none() {
            break;
        }
        held += 1;
        if n > 500 {
            // Another window of ids, again and again: what is released takes nothing.
            worker.handle_pubrel(&client, PacketId::new(n - 500).unwrap());
        }
        if n == 5000 {
            break;
        }
    }
    assert_eq!((held, client.phase().closing()), (5000, None));
    for n in 5001..=u16::MAX {
        if worker.handle_qos2_publish(&client, PacketId::new(n).unwrap()).is_none() {
            break;
        }
        held += 1;
    }
    assert_eq!(client.phase().closing(), Some(CloseReason::Limit));
    assert!((5500..7000).contains(&held), "{held}");
    for n in 4000..=u16::MAX {
        worker.handle_pubrel(&client, PacketId::new(n).unwrap());
    }
    assert_eq!(session_bytes(&worker), empty);
}

/// Of one worker, with this much for each side of the buffers of all connections.
fn buffers(bytes: usize) -> Rc<Worker> {
    let mut settings = settings(1);
    settings.limits.max_buffer_bytes = 2 * bytes;
    settings.limits.max_output_bytes = 1 << 20;
    settings.session.max_queued_bytes = 1 << 20;
    settings.session.max_queued_messages = 10_000;
    settings.session.max_queued_in_memory = 10_000;
    settings.session.max_queued_in_memory_bytes = 1 << 20;
    worker_with(settings)
}

/// Fills the buffers with what waits for one socket.
fn hog(worker: &Rc<Worker>, bytes: usize) -> Rc<Conn> {
    let hog = conn(worker);
    worker.write(&hog, |out| out.extend(std::iter::repeat_n(0, bytes)));
    hog
}

#[test]
fn a_subscriber_holds_its_share_once_the_buffers_are_full() {
    let worker = buffers(100_000);
    let slow = connect(&worker, true, None);
    subscribe(&worker, &slow, "t", QoS::AtMostOnce);
    let publisher = conn(&worker);
    let publish =
        |bytes| publish_at(QoS::AtMostOnce, &worker, &publisher, "t", &vec![0; bytes], false);
    publish(50_000);
    assert_eq!(slow.out.borrow().len() / 1000, 50);
    let hog = hog(&worker, 60_000);
    assert_eq!(worker.metrics.buffers_full.get(), 1);
    publish(10);
    let dropped = || worker.metrics.dropped[DropReason::SlowSubscriber as usize].get();
    assert_eq!(dropped(), 1);
    // A third of it for each of three: who holds less still gets, up to there.
    slow.out.borrow_mut().clear();
    worker.count_buffers(std::iter::empty());
    worker.output_changed(0, 100_000);
    for _ in 0..100 {
        publish(1000);
    }
    assert_eq!(slow.out.borrow().len() / 1000, 33);
    assert!(!worker.has_credit(&hog), "nor is more read of who takes nothing");
    assert!(worker.has_credit(&slow));
    // The clocks count anew.
    worker.check_timers(ready);
    let held = [&slow, &hog, &publisher].map(|conn| conn.out.borrow().len()).iter().sum::<usize>();
    assert_eq!(worker.buffered(), held);
    [&slow, &hog, &publisher].iter().for_each(|conn| worker.give_buffers_back(conn));
    assert_eq!(worker.buffered(), 0);
}

#[test]
fn what_waits_in_memory_is_counted_and_shared_out() {
    for (clean, overflow) in
        [(true, Overflow::DropNew), (true, Overflow::DropOld), (false, Overflow::DropNew)]
    {
        let mut settings = (*buffers(100_000).shared.settings).clone();
        settings.session.overflow = overflow;
        let worker = worker_with(settings);
        let slow = connect(&worker, clean, None);
        store(&worker);
        subscribe(&worker, &slow, "t", QoS::AtLeastOnce);
        let publisher = conn(&worker);
        // The window is full after four.
        for _ in 0..4 {
            publish(&worker, &publisher, "t", &[0; 1000], false);
        }
        let out = slow.out.borrow().len();
        // But for what the publisher is answered.
        let counted = || worker.buffered() - publisher.out.borrow().len();
        assert_eq!(counted(), out);
        for n in 1..=20 {
            publish(&worker, &publisher, "t", &[0; 1000], false);
            let waiting = slow.waiting_bytes.get() as usize;
            assert!(waiting >= n * 1000 && waiting < n * 1300, "{waiting}");
            assert_eq!(counted(), out + waiting);
        }
        let _hog = hog(&worker, 100_000);
        for _ in 0..100 {
            publish(&worker, &publisher, "t", &[0; 1000], false);
        }
        let waiting = slow.waiting_bytes.get();
        assert!(waiting > 28_000 && waiting <= 33_333, "a third: {waiting}");
        let dropped = worker.metrics.dropped[DropReason::QueueFull as usize].get();
        // The rest of a persistent session's queue is in the store.
        assert_eq!(dropped > 80, clean, "{dropped}");
        worker.detach(&slow, CloseReason::Eof);
        assert_eq!((slow.waiting_bytes.get(), counted()), (0, out + 100_000));
    }
}

#[test]
fn a_message_larger_than_the_share_goes_on_once_there_is_room() {
    let worker = buffers(100_000);
    let client = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &client, "t", QoS::AtLeastOnce);
    client.out.take();
    worker.check_timers(ready);
    let hog = hog(&worker, 100_000);
    publish(&worker, &conn(&worker), "t", &[7; 40_000], false);
    let entries = queued(&store(&worker).0);
    assert_eq!(entries.len(), 1);
    assert!(client.out.borrow().is_empty() && client.wants_pump.get());
    worker.give_buffers_back(&hog);
    client.polled();
    worker.check_timers(ready);
    assert!(client.is_woken(), "its actor pumps");
    worker.pump(&client);
    let (slot, request, _) = store(&worker).1[0];
    worker.queue_page(slot, request, &entries);
    assert!(client.out.borrow().ends_with(&[7; 1000]));
}

#[test]
fn of_a_page_no_more_is_taken_than_the_share() {
    let worker = buffers(100_000);
    let first = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &first, "t", QoS::AtLeastOnce);
    worker.detach(&first, CloseReason::Eof);
    for _ in 0..60 {
        publish(&worker, &conn(&worker), "t", &[0; 1000], false);
    }
    let entries = queued(&store(&worker).0);
    assert_eq!(entries.len(), 60);
    let second = connect(&worker, false, None);
    store(&worker);
    let (slot, request, _) = store(&worker).1[0];
    let hog = hog(&worker, 100_000);
    let share = worker.share();
    // Four are sent, one waits in any case.
    worker.queue_page(slot, request, &entries);
    assert!(
        second.waiting_bytes.get() as usize <= share.max(2000),
        "{} of {share}",
        second.waiting_bytes.get()
    );
    // The rest is read behind what was taken.
    worker.give_buffers_back(&hog);
    let mut next = 1;
    while next <= 60 {
        second.out.take();
        for id in 1..=60u16 {
            let _ = worker.handle_puback(&second, PacketId::new(id).unwrap());
        }
        worker.pump(&second);
        let (_, reads) = store(&worker);
        let Some((slot, request, from)) = reads.first().copied() else {
            next += 1;
            continue;
        };
        let page: Vec<QueueEntry> =
            entries.iter().filter(|entry| entry.sequence >= from).cloned().collect();
        worker.queue_page(slot, request, &page);
    }
    worker.count_sessions();
    assert_eq!(worker.metrics.queued.get(), 0, "all of it is delivered");
}

#[test]
fn a_will_past_the_share_is_refused_and_ends_with_its_connection() {
    let worker = buffers(100_000);
    let will = |bytes: usize| Some("w".repeat(bytes));
    let first = connect_as("a", &worker, true, will(60_000).as_deref());
    store(&worker);
    assert_eq!(first.phase().closing(), None);
    assert!(worker.buffered() >= 60_000);
    let second = connect_as("b", &worker, true, will(60_000).as_deref());
    assert_eq!(second.phase().closing(), None, "the bound is passed by one");
    let third = connect_as("c", &worker, true, will(60_000).as_deref());
    assert_eq!(third.phase().closing(), Some(CloseReason::Refused));
    let small = connect_as("d", &worker, true, will(100).as_deref());
    assert_eq!(small.phase().closing(), None, "within its share");
    for conn in [&first, &second, &small] {
        worker.detach(conn, CloseReason::Disconnect);
        assert_eq!(conn.will_bytes.get(), 0);
        worker.give_buffers_back(conn);
    }
    worker.give_buffers_back(&third);
    assert_eq!(worker.buffered(), 0);
}

#[test]
fn a_charge_is_given_back_whole() {
    let total = Arc::default();
    let mut charge = Charge::new(&total, "client");
    charge.add(1000);
    charge.sub(10_000);
    assert_eq!((charge.bytes(), total.load(Ordering::Relaxed)), (0, 0));
    charge.add(7);
    drop(charge);
    assert_eq!(total.load(Ordering::Relaxed), 0);
}
