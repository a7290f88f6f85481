//! What a member does before it convicts another by silence.

use super::testing::{address, frame, id, identity, name};
use super::*;
use crate::wire::message::{Accuse, Alive};

const COUNT: usize = 12;

/// The first of a dozen members, which has heard of the others; and the frames in which they speak.
struct Accuser {
    engine: Engine,
    now: Instant,
}

impl Accuser {
    fn new() -> Self {
        let now = Instant::now();
        let engine = Engine::new(now, identity(0), EngineConfig::default(), 7);
        let mut accuser = Self { engine, now };
        for at in 1..COUNT {
            accuser.hear(at, &[alive(at, 0)]);
        }
        accuser
    }

    fn hear(&mut self, from: usize, messages: &[Message]) {
        let frame = frame(id(from), messages);
        self.engine.handle_datagram(self.now, address(from), &frame);
    }

    /// Three find a member silent.
    fn suspect(&mut self, at: usize) {
        let accusers = [0, 2, 3].map(|accuser| (id(accuser), false));
        self.engine.suspect(self.now, id(at), 0, accusers);
    }

    /// Runs until the suspect is convicted, for a minute at most; all but the suspect answer pings
    /// where `answers` says so. Answers how often the suspect was pinged with the accusation in front,
    /// and when the suspicion ended.
    fn pursue(&mut self, suspect: usize, answers: impl Fn(usize) -> bool) -> (usize, Duration) {
        let (begin, mut pings, mut challenges) = (self.now, 0, 0);
        while self.state(suspect) == MemberState::Suspect {
            while let Some(Transmit { route, frame }) = self.engine.poll_transmit() {
                let Route::Datagram(to) = route else { continue };
                let to = usize::from(to.port()) - 1000;
                let (mut accused, mut ping) = (false, None);
                for message in messages(&frame) {
                    match message {
                        Message::Accuse(Accuse { member, .. }) => accused |= member == id(to),
                        Message::Ping { sequence, .. } => ping = Some(sequence),
                        _ => {}
                    }
                }
                let Some(sequence) = ping else { continue };
                if to == suspect {
                    challenges += usize::from(accused);
                    continue;
                }
                pings += 1;
                if answers(pings) {
                    let digest = self.engine.digest();
                    self.hear(to, &[Message::Ack { sequence, digest }]);
                }
            }
            self.now = self.engine.poll_timeout().unwrap();
            assert!(
                self.now < begin + Duration::from_secs(60),
                "nobody is convicted"
            );
            self.engine.handle_timeout(self.now);
        }
        (challenges, self.now - begin)
    }

    fn state(&self, at: usize) -> MemberState {
        self.engine.members.find(id(at)).unwrap().state
    }
}

fn alive(at: usize, incarnation: u64) -> Message {
    Message::Alive(Alive {
        name: name(at).into(),
        generation: 100,
        incarnation,
        address: address(at),
        floor: 0,
        newest: 0,
        seal: Box::default(),
        features: Features::NONE,
        unknown: Box::default(),
    })
}

fn messages(frame: &[u8]) -> Vec<Message> {
    let mut reader = Reader::new(frame);
    Header::decode(&mut reader).unwrap();
    let next = || match reader.is_empty() {
        true => None,
        false => Some(Message::decode(&mut reader).unwrap()),
    };
    std::iter::from_fn(next).flatten().collect()
}

#[test]
fn where_nothing_is_lost_the_silent_go_soon() {
    let mut accuser = Accuser::new();
    accuser.suspect(1);
    let (challenges, time) = accuser.pursue(1, |_| true);
    assert_eq!(accuser.state(1), MemberState::Dead);
    assert!(challenges >= 1, "it was not asked");
    assert!(time <= Duration::from_millis(1_600), "{time:?}");
}

#[test]
fn the_silent_are_given_time_where_nobody_else_has_noticed() {
    let mut accuser = Accuser::new();
    let mine = [(id(0), false)];
    accuser.engine.suspect(accuser.now, id(1), 0, mine);
    let (_, time) = accuser.pursue(1, |_| true);
    assert_eq!(accuser.state(1), MemberState::Dead);
    assert!(time > Duration::from_secs(6), "{time:?}");
}

#[test]
fn who_was_stopped_suspects_nobody_for_what_it_did_not_hear() {
    let mut accuser = Accuser::new();
    let asks_helpers = |engine: &mut Engine| {
        let sent = std::iter::from_fn(|| engine.poll_transmit());
        let messages = sent.flat_map(|sent| messages(&sent.frame));
        messages.fold(false, |asks, message| {
            asks | matches!(message, Message::PingRequest { .. })
        })
    };
    // One probe is without an answer for so long that others are asked.
    while !asks_helpers(&mut accuser.engine) {
        accuser.now = accuser.engine.poll_timeout().unwrap();
        accuser.engine.handle_timeout(accuser.now);
    }
    assert_eq!(accuser.engine.stats().suspicions, 0);
    // Their answers are lost with everything else that comes while this process is stopped.
    accuser.now += Duration::from_secs(30);
    accuser.engine.handle_timeout(accuser.now);
    assert_eq!(accuser.engine.stats().suspicions, 0);
}

#[test]
fn a_check_without_an_answer_confirms_what_still_stands_and_accuses_of_nothing_new() {
    for refuted in [false, true] {
        let mut accuser = Accuser::new();
        let others = [(id(2), false)];
        accuser.engine.suspect(accuser.now, id(1), 0, others);
        accuser.engine.check_suspect(accuser.now, id(1), 0);
        let check = *accuser.engine.checks.keys().next().unwrap();
        if refuted {
            accuser.hear(1, &[alive(1, 1)]);
        }
        accuser.engine.end_check(accuser.now, check);
        let member = accuser.engine.members.find(id(1)).unwrap();
        assert_eq!(member.is_accused_by(accuser.engine.me), !refuted);
    }
}

#[test]
fn a_network_that_has_just_become_lossy_is_noticed_before_anybody_is_convicted() {
    let mut accuser = Accuser::new();
    assert!(accuser.engine.loss.doubt() < 0.1);
    accuser.suspect(1);
    // Of the first answers every other one is lost: that of the look at the network.
    let (challenges, time) = accuser.pursue(1, |ping| ping > 10 || ping % 2 == 0);
    assert!(time > Duration::from_secs(4), "{time:?}");
    assert!(challenges > 25, "challenged {challenges} times");
}

#[test]
fn an_accusation_that_is_refuted_counts_as_a_loss() {
    let mut accuser = Accuser::new();
    accuser.suspect(1);
    accuser.hear(1, &[alive(1, 1)]);
    let mine = accuser.engine.loss.doubt();
    assert!(mine > 0.4, "{mine}");
    // Not what others have missed.
    accuser
        .engine
        .suspect(accuser.now, id(2), 0, [(id(3), false)]);
    accuser.hear(2, &[alive(2, 1)]);
    assert!(accuser.engine.loss.doubt() <= mine);
}

#[test]
fn a_crowd_of_suspects_is_challenged_at_a_bounded_rate() {
    let mut accuser = Accuser::new();
    accuser.engine.loss.sounded(8, 8);
    let challenge = |accuser: &mut Accuser| {
        let before = accuser.engine.stats().datagrams_out;
        for _ in 0..1_000 {
            accuser.engine.challenge(accuser.now, id(1));
        }
        accuser.engine.stats().datagrams_out - before
    };
    assert_eq!(challenge(&mut accuser), 64);
    accuser.now += Duration::from_secs(1);
    assert_eq!(challenge(&mut accuser), 50);
}
