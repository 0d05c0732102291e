//! Every edge of a connection's life: each phase that can be reached meets each event.

use super::*;

const CLAIM: NonZeroU32 = NonZeroU32::MIN;
const OTHER: NonZeroU32 = NonZeroU32::MAX;
const HOME: u16 = 1;

fn events() -> Vec<Event> {
    let mut events = vec![
        Event::HeaderRead,
        Event::Moves(HOME),
        Event::HasMoved,
        Event::Asks(CLAIM),
        Event::Granted(CLAIM),
        Event::Granted(OTHER),
        Event::Attached,
        Event::ConnackSent,
        Event::Drains,
        Event::TakesLeave,
        Event::Died,
    ];
    for why in CloseReason::ALL {
        events.extend([Event::Closes(*why), Event::Detached(*why)]);
    }
    events
}

/// What a connection has done in its life, as its client and its worker see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Life {
    header_read: bool,
    asked: u8,
    let_in: u8,
    attached: u8,
    connacks: u8,
    moved: u8,
    /// Its will is kept for the session's client.
    has_will: bool,
    /// The client said that it leaves before anything else ended the connection.
    took_leave: bool,
    discarded: u8,
    published: u8,
    /// Claims, places among those let in and sessions that were given back.
    given_back: u8,
}

impl Life {
    /// Does what the worker does at this edge, with a client that has a will.
    fn goes_on(&mut self, phase: Phase, event: Event, next: Phase) {
        match event {
            Event::HeaderRead => self.header_read = true,
            Event::Asks(_) => self.asked += 1,
            Event::Granted(_) => self.let_in += 1,
            Event::Attached => (self.attached, self.has_will) = (self.attached + 1, true),
            Event::ConnackSent => self.connacks += 1,
            Event::HasMoved => self.moved += 1,
            Event::Closes(CloseReason::Disconnect) | Event::TakesLeave => self.took_leave = true,
            // The reason is a dead actor now, and the will is published.
            Event::Died => self.took_leave &= self.discarded > 0,
            Event::Detached(_) => {
                self.given_back += u8::from(phase.reached() != Reached::Nothing);
                if std::mem::take(&mut self.has_will) {
                    // As `detach` does it.
                    match next.closing() {
                        Some(CloseReason::Disconnect) => self.discarded += 1,
                        _ => self.published += 1,
                    }
                }
                // `detach` is told that, where nobody has closed the connection before.
                let told = event == Event::Detached(CloseReason::Disconnect);
                self.took_leave |= told && phase.closing().is_none();
            }
            Event::Moves(_) | Event::Drains | Event::Closes(_) => {}
        }
    }

    /// What holds in each phase, whatever led to it.
    fn check(&self, phase: Phase) {
        let attached_now = phase.is_connected();
        assert!(self.asked <= 1 && self.let_in <= self.asked, "asked once");
        assert!(self.attached <= 1 && self.connacks <= self.attached, "CONNACK once");
        assert!(self.given_back <= 1 && self.moved <= 1, "given back once");
        assert!(self.moved == 0 || self.attached == 0, "it moves before it has a session");
        assert_eq!(self.moved == 1, phase == Phase::Moved);
        // A will is kept exactly while the connection has its session, and comes to one end.
        assert_eq!(self.has_will, attached_now);
        let ends = self.discarded + self.published;
        assert_eq!(self.attached, u8::from(self.has_will) + ends);
        if ends == 1 {
            assert_eq!(self.discarded == 1, self.took_leave, "only DISCONNECT discards a will");
        }
        assert_eq!(phase.is_established(), attached_now && self.connacks == 1);
        assert_eq!(phase.awaits_connack(), attached_now && self.connacks == 0);
        assert_eq!(phase.claim().is_some(), phase.reached() == Reached::Claiming(CLAIM));
        // A PUBLISH is handled where a socket is read that has its CONNECT: behind CONNACK.
        assert_eq!(phase.reads() && attached_now, phase == Phase::Established);
        assert!(!phase.reads() || phase.closing().is_none() && !phase.is_draining());
        assert!(!phase.is_live() || self.connacks == 1 && phase.closing().is_none());
        assert!(!phase.takes_connect() || self.attached == 0 && phase.reads());
    }
}

fn check_edge(phase: Phase, event: Event, next: Phase) {
    let closes = matches!(event, Event::Closes(_) | Event::TakesLeave | Event::Died)
        || matches!(event, Event::Detached(_));
    assert_eq!(next.closing().is_some(), closes || phase.closing().is_some());
    if let Phase::Closing(why, _) = phase {
        let Phase::Closing(now, _) = next else { panic!("{event:?} leaves {phase:?}") };
        let drained = matches!(why, CloseReason::Drain | CloseReason::Shutdown);
        let revised = event == Event::Died || event == Event::TakesLeave && drained;
        assert!(now == why || revised, "the first reason counts: {phase:?} {event:?}");
    }
    assert_ne!(phase, Phase::Moved, "{event:?}");
    if phase.is_draining() {
        assert!(next.is_draining() || closes, "{event:?} leaves {phase:?}");
    }
    if event == Event::ConnackSent {
        assert!(phase.awaits_connack() && phase.closing().is_none() && next.is_live());
    }
    assert_eq!(event == Event::Attached, phase.takes_connect() && next.awaits_connack());
    if matches!(event, Event::Detached(_)) {
        assert_eq!(next.reached(), Reached::Nothing);
    } else if phase.reached() != Reached::Nothing {
        assert_ne!(next.reached(), Reached::Nothing, "{event:?} loses what {phase:?} holds");
    }
    assert_ne!(event, Event::Granted(OTHER), "the answer to another claim");
}

#[test]
fn every_edge_of_a_connections_life_keeps_its_promises() {
    let events = events();
    let mut lives: Vec<(Phase, Life)> =
        [Phase::ProxyHeader, Phase::AwaitConnect].map(|first| (first, Life::default())).into();
    let (mut at, mut edges) = (0, Vec::new());
    while let Some((phase, life)) = lives.get(at).copied() {
        at += 1;
        life.check(phase);
        for event in &events {
            let Some(next) = phase.after(*event) else { continue };
            check_edge(phase, *event, next);
            if !edges.contains(&(phase, *event)) {
                edges.push((phase, *event));
            }
            let mut life = life;
            life.goes_on(phase, *event, next);
            if !lives.contains(&(next, life)) {
                lives.push((next, life));
            }
        }
        // No life goes on for ever.
        assert!(at < 10_000);
    }
    let reached = |phase: Phase| lives.iter().any(|(known, _)| *known == phase);
    let held = [
        Reached::Nothing,
        Reached::Claiming(CLAIM),
        Reached::LetIn,
        Reached::AwaitConnack,
        Reached::Established,
    ];
    assert!(held.iter().all(|held| reached(Phase::Draining(*held))));
    for why in CloseReason::ALL {
        assert!(held.iter().all(|held| reached(Phase::Closing(*why, *held))), "{why:?}");
    }
    for phase in [Phase::Moving(HOME), Phase::Moved, Phase::Claiming(CLAIM), Phase::LetIn] {
        assert!(reached(phase), "{phase:?}");
    }
    // Whoever adds an edge looks here, and at the table of the module. Those of any reason are not counted.
    let any = |event: &Event| matches!(event, Event::Closes(_) | Event::Detached(_));
    edges.retain(|(phase, event)| phase.closing().is_none() && !any(event));
    assert_eq!(edges.len(), 32, "{edges:?}");
}

#[test]
fn a_phase_takes_no_more_than_the_flags_it_replaces() {
    assert!(size_of::<Phase>() <= 12, "{}", size_of::<Phase>());
}
