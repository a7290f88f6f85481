//! User events and queries of engines on a perfect network, and input about them that no member of
//! this library sends.

use tidings_api::ErrorKind;

use super::testing::{address, engine, identity};
use super::*;
use crate::wire::limits::{
    COUNTER_MAX, EVENT_BYTES_MAX, EVENT_BYTES_PER_SENDER_MAX, EVENT_CLAIMS_MAX,
    EVENT_STRANGERS_MAX, PAYLOAD_BYTES_MAX, QUERIES_HEARD_MAX, QUERIES_OPEN_MAX,
};
use crate::wire::message::{Accuse, Verdict};
use crate::wire::queries::{Answer, Query, Word};
use crate::wire::user_events::{Head, Place, Streams, UserEvent as Wire};

fn frame(sender: &str, messages: &[Message]) -> Vec<u8> {
    testing::frame(wire::member_hash(sender), messages)
}

fn event(sender: &str, generation: u64, sequence: u64, bytes: usize) -> Message {
    Message::UserEvent(Wire {
        sender: sender.into(),
        generation,
        sequence,
        age: 0,
        name: ServiceName::new("deploy").unwrap(),
        payload: vec![0; bytes].into(),
        unknown: Box::default(),
    })
}

/// An engine that knows the members `m2` to `m4`.
fn with_members(now: Instant) -> Engine {
    let mut engine = engine(now, 1);
    for at in 2..5 {
        meet(&mut engine, now, at, Features::OURS);
    }
    engine
}

/// Tells of a member that understands this much.
fn meet(engine: &mut Engine, now: Instant, at: usize, features: Features) {
    let alive = Message::Alive(Alive {
        features,
        ..alive(&identity(at))
    });
    let frame = frame(&testing::name(at), &[alive]);
    engine.handle_datagram(now, address(at), &frame);
}

/// An engine that asks 58 others something that fits no datagram, and the query's id.
fn with_large_query(now: Instant, timeout: Duration) -> (Engine, u64) {
    let mut engine = engine(now, 1);
    for at in 2..60 {
        meet(&mut engine, now, at, Features::OURS);
    }
    sent(&mut engine);
    let terms = Terms {
        timeout,
        members: None,
        answers_max: usize::MAX,
    };
    let name = ServiceName::new("load").unwrap();
    let payload = vec![0; 30_000].into();
    let id = engine.query(now, name, payload, terms).unwrap();
    (engine, id)
}

/// That a member has left.
fn left(at: usize) -> Message {
    Message::Accuse(Accuse {
        member: testing::id(at),
        generation: 100,
        incarnation: 0,
        verdict: Verdict::Left,
        accusers: Vec::new(),
        refused: 0,
    })
}

fn told(engine: &mut Engine) -> Vec<String> {
    let events = std::iter::from_fn(|| engine.poll_event());
    let heard = events.filter_map(|event| match event {
        Event::Heard(Heard::Event(event)) => Some(event.sequence.to_string()),
        Event::Heard(Heard::Missed { count, .. }) => Some(format!("missed {count}")),
        _ => None,
    });
    heard.collect()
}

fn sent(engine: &mut Engine) -> Vec<Transmit> {
    std::iter::from_fn(|| engine.poll_transmit()).collect()
}

#[test]
fn a_word_of_others_does_not_end_the_stream_of_a_member_that_is_there() {
    let now = Instant::now();
    let mut engine = with_members(now);
    engine.handle_datagram(now, address(2), &frame("m2", &[event("m2", 100, 1, 1)]));
    assert_eq!(told(&mut engine), ["1"]);
    let (stream, generation) = (wire::member_hash("m2"), 100);
    let head = |oldest, newest| {
        Message::Streams(Streams::Some(vec![Head {
            stream,
            generation,
            oldest,
            newest,
        }]))
    };
    // Somebody else says that it has gone far on, and has an event to show.
    let far = 1 << 50;
    let forged = [event("m2", 100, far, 1), head(far, far)];
    for _ in 0..10 {
        engine.handle_link(now, LinkId(1), &frame("m3", &forged));
    }
    assert_eq!(told(&mut engine), Vec::<String>::new());
    // The sender says what is true.
    engine.handle_link(now, LinkId(2), &frame("m2", &[head(1, 1)]));
    engine.handle_datagram(now, address(2), &frame("m2", &[event("m2", 100, 2, 1)]));
    assert_eq!(told(&mut engine), ["2"]);
    // What it doesn't have any more is missed.
    engine.handle_link(
        now,
        LinkId(2),
        &frame("m2", &[event("m2", 100, 7, 1), head(7, 7)]),
    );
    assert_eq!(told(&mut engine), ["missed 4", "7"]);
}

#[test]
fn a_sender_goes_on_above_what_others_say_of_it() {
    let now = Instant::now();
    let mut engine = with_members(now);
    let send = |engine: &mut Engine| {
        let name = ServiceName::new("deploy").unwrap();
        engine.send_event(now, name, [1].into())
    };
    assert_eq!(send(&mut engine), 1);
    engine.handle_datagram(now, address(2), &frame("m2", &[event("m1", 100, 50, 1)]));
    assert_eq!(send(&mut engine), 51);
    // No room above: it starts anew.
    let absurd = event("m1", 100, COUNTER_MAX, 1);
    engine.handle_datagram(now, address(2), &frame("m2", &[absurd]));
    assert_eq!(engine.identity.generation.number(), 101);
    assert_eq!(send(&mut engine), 1);
    // As well above a start of its own that it knows nothing of: the others hear nothing older any more.
    engine.handle_datagram(now, address(2), &frame("m2", &[event("m1", 200, 1, 1)]));
    assert_eq!(engine.identity.generation.number(), 201);
    assert_eq!(send(&mut engine), 1);
    // Beyond what is heard at all.
    let beyond = event("m1", 201, COUNTER_MAX + 1, 1);
    engine.handle_datagram(now, address(2), &frame("m2", &[beyond]));
    assert_eq!(send(&mut engine), 2);
}

#[test]
fn a_flood_of_senders_and_events_is_bounded() {
    let now = Instant::now();
    let mut engine = with_members(now);
    for sender in 0..3 * EVENT_STRANGERS_MAX as u64 {
        let name = format!("s{sender}");
        for sequence in [1, 2, 9] {
            let event = event(&name, 1, sequence, 4_000);
            engine.handle_link(now, LinkId(1), &frame("m2", &[event]));
        }
    }
    for sequence in 1..2_000 {
        let event = event("m2", 100, 2 * sequence, PAYLOAD_BYTES_MAX);
        engine.handle_link(now, LinkId(1), &frame("m2", &[event]));
    }
    let heads = (0..3 * EVENT_CLAIMS_MAX as u64).map(|stream| Head {
        stream,
        generation: 1,
        oldest: 1,
        newest: COUNTER_MAX,
    });
    let heads = heads.collect();
    let claims = Message::Streams(Streams::Some(heads));
    engine.handle_link(now, LinkId(1), &frame("m2", &[claims]));
    let events = &engine.user_events;
    assert!(events.streams.bytes() <= EVENT_BYTES_MAX);
    assert!(events.streams.len() <= EVENT_STRANGERS_MAX + 4);
    assert!(events.claims.len() <= EVENT_CLAIMS_MAX);
    assert!(engine.stats().events.refused > 0);
    // What is sent while all that goes on is bounded as well, and ends.
    let mut now = now;
    let mut frames = sent(&mut engine).len();
    for _ in 0..1_000 {
        let Some(due) = engine
            .poll_timeout()
            .filter(|due| *due < now + Duration::from_secs(10))
        else {
            break;
        };
        now = now.max(due);
        engine.handle_timeout(now);
        frames += sent(&mut engine).len();
    }
    assert!(frames < 20_000, "{frames} frames");
}

#[test]
fn of_one_sender_a_bounded_part_is_kept_and_a_frame_is_answered_with_a_bounded_part_of_that() {
    let now = Instant::now();
    let mut engine = with_members(now);
    let large = EVENT_BYTES_PER_SENDER_MAX / PAYLOAD_BYTES_MAX;
    for sender in 2..5 {
        for sequence in 1..=3 * large as u64 {
            let name = format!("m{sender}");
            let event = event(&name, 100, sequence, PAYLOAD_BYTES_MAX);
            engine.handle_link(now, LinkId(1), &frame(&name, &[event]));
        }
    }
    let kept = engine.stats().events.kept_bytes;
    assert!(kept > 3 * EVENT_BYTES_PER_SENDER_MAX / 2, "{kept} bytes");
    assert!(kept <= 3 * EVENT_BYTES_PER_SENDER_MAX, "{kept} bytes");
    sent(&mut engine);
    // All that there is, over and over in one frame.
    let place = |sender: u64| Place {
        stream: wire::member_hash(&format!("m{}", 2 + sender % 3)),
        generation: 100,
        after: 0,
    };
    let want = Message::Streams(Streams::Want((0..100).map(place).collect()));
    engine.handle_link(now, LinkId(1), &frame("m2", &vec![want; 10]));
    let bytes: usize = sent(&mut engine).iter().map(|sent| sent.frame.len()).sum();
    assert!(bytes > PAYLOAD_BYTES_MAX, "{bytes} bytes");
    assert!(bytes < 512 * 1_024 + 4 * PAYLOAD_BYTES_MAX, "{bytes} bytes");
}

#[test]
fn what_is_missing_before_an_event_is_asked_for_at_once() {
    let start = Instant::now();
    let mut engine = with_members(start);
    for sequence in [1, 3] {
        let event = event("m2", 100, sequence, 1);
        engine.handle_datagram(start, address(2), &frame("m2", &[event]));
    }
    let until = start + Duration::from_millis(100);
    let mut frames = Vec::new();
    while let Some(due) = engine.poll_timeout().filter(|due| *due <= until) {
        engine.handle_timeout(due);
        frames.extend(sent(&mut engine));
    }
    let place = Place {
        stream: wire::member_hash("m2"),
        generation: 100,
        after: 1,
    };
    let wanted = Transmit {
        route: Route::Link(address(2)),
        frame: engine.frame(&[Message::Streams(Streams::Want(vec![place]))]),
    };
    assert!(frames.contains(&wanted), "{frames:?}");
}

#[test]
fn what_is_behind_a_hole_is_told_when_nobody_is_left_to_fill_it() {
    let start = Instant::now();
    let mut engine = with_members(start);
    for sequence in [1, 3] {
        let event = event("m2", 100, sequence, 1);
        engine.handle_datagram(start, address(2), &frame("m2", &[event]));
    }
    engine.handle_datagram(start, address(2), &frame("m2", &[left(2)]));
    run(&mut engine, start + Duration::from_secs(60));
    assert_eq!(told(&mut engine), ["1", "missed 1", "3"]);
}

#[test]
fn what_is_behind_a_hole_is_told_when_its_sender_has_started_anew() {
    let now = Instant::now();
    let mut engine = with_members(now);
    for sequence in [1, 3] {
        let event = event("m2", 100, sequence, 1);
        engine.handle_datagram(now, address(2), &frame("m2", &[event]));
    }
    engine.user_events.claims.clear();
    engine.handle_datagram(now, address(2), &frame("m2", &[event("m2", 101, 1, 1)]));
    assert_eq!(told(&mut engine), ["1", "missed 1", "3", "1"]);
}

#[test]
fn who_has_just_joined_has_missed_nothing_before() {
    let now = Instant::now();
    let mut engine = Engine::new(now, identity(1), EngineConfig::default(), 1);
    engine.handle_seeds(now, &[address(3)]);
    for at in 2..4 {
        meet(&mut engine, now, at, Features::OURS);
    }
    engine.handle_link(
        now,
        LinkId(1),
        &frame("m3", &[Message::SyncDone { digest: 0 }]),
    );
    // Another that has just started is the first to answer.
    engine.compare_streams(now, testing::id(2));
    let head = Message::Streams(Streams::Some(vec![Head {
        stream: testing::id(3),
        generation: 100,
        oldest: 11,
        newest: 10,
    }]));
    engine.handle_link(now, LinkId(1), &frame("m3", &[head]));
    assert_eq!(told(&mut engine), Vec::<String>::new());
    engine.handle_datagram(now, address(3), &frame("m3", &[event("m3", 100, 11, 1)]));
    assert_eq!(told(&mut engine), ["11"]);
}

#[test]
fn who_leaves_waits_until_somebody_has_what_it_sent_last() {
    let now = Instant::now();
    let mut engine = with_members(now);
    sent(&mut engine);
    let name = ServiceName::new("deploy").unwrap();
    engine.send_event(now, name, vec![7; 30_000].into());
    engine.handle_timeout(now);
    sent(&mut engine);
    engine.leave(now);
    let ours = digest_of(&engine, now);
    let own_head = engine.user_events.streams.head(engine.me).unwrap();
    let asked: Vec<_> = pings(&sent(&mut engine)).collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    for (to, sequence, messages) in &asked {
        let told = messages.contains(&Message::Streams(Streams::Some(vec![own_head])));
        assert!(told, "{messages:?}");
        // Everybody knows that it leaves, and nobody has the event.
        engine.handle_datagram(now, *to, &ack(*to, *sequence, 0));
    }
    assert!(!has_left(&mut engine));
    let want = Message::Streams(Streams::Want(vec![Place {
        stream: engine.me,
        generation: 100,
        after: 0,
    }]));
    engine.handle_datagram(now, address(2), &frame("m2", std::slice::from_ref(&want)));
    assert_eq!(sent(&mut engine), [], "an address may be anybody's claim");
    engine.handle_link(now, LinkId(1), &frame("m2", &[want]));
    let given: usize = sent(&mut engine).iter().map(|sent| sent.frame.len()).sum();
    assert!(given > 30_000, "{given} bytes");
    // It asks until somebody says that it has it.
    let later = now + Duration::from_millis(60);
    engine.handle_timeout(later);
    let (to, sequence, _) = pings(&sent(&mut engine)).next().expect("nobody is asked");
    engine.handle_datagram(later, to, &ack(to, sequence, ours));
    assert!(has_left(&mut engine));
}

#[test]
fn who_has_sent_nothing_lately_leaves_as_soon_as_that_is_confirmed() {
    let now = Instant::now();
    let mut engine = with_members(now);
    let name = ServiceName::new("deploy").unwrap();
    engine.send_event(now, name, vec![7; 100].into());
    sent(&mut engine);
    let later = now + Duration::from_secs(11);
    engine.leave(later);
    for (to, sequence, messages) in pings(&sent(&mut engine)).collect::<Vec<_>>() {
        let said = |message: &Message| matches!(message, Message::Streams(_));
        assert!(!messages.iter().any(said), "{messages:?}");
        engine.handle_datagram(later, to, &ack(to, sequence, 0));
    }
    assert!(has_left(&mut engine));
}

#[test]
fn who_leaves_is_asked_for_what_it_sent_last() {
    let now = Instant::now();
    let mut engine = with_members(now);
    sent(&mut engine);
    let head = Message::Streams(Streams::Some(vec![Head {
        stream: testing::id(2),
        generation: 100,
        oldest: 1,
        newest: 2,
    }]));
    engine.handle_datagram(now, address(2), &frame("m2", &[left(2)]));
    engine.handle_datagram(now, address(2), &frame("m2", &[head]));
    engine.handle_timeout(now);
    let asked = sent(&mut engine);
    let link = asked
        .iter()
        .find(|sent| sent.route == Route::Link(address(2)));
    assert!(link.is_some(), "{asked:?}");
}

/// What is asked of whom, with all messages of the frame.
fn pings(sent: &[Transmit]) -> impl Iterator<Item = (SocketAddr, u64, Vec<Message>)> + '_ {
    sent.iter().filter_map(|sent| {
        let Route::Datagram(to) = sent.route else {
            return None;
        };
        let messages = messages(&sent.frame);
        let sequence = messages.iter().find_map(|message| match message {
            Message::Ping { sequence, .. } => Some(*sequence),
            _ => None,
        })?;
        Some((to, sequence, messages))
    })
}

fn messages(frame: &[u8]) -> Vec<Message> {
    let mut reader = Reader::new(frame);
    Header::decode(&mut reader).unwrap();
    let next = || (!reader.is_empty()).then(|| Message::decode(&mut reader).unwrap().unwrap());
    std::iter::from_fn(next).collect()
}

/// The answer of the member at an address to a ping, with its digest of streams.
fn ack(from: SocketAddr, sequence: u64, streams: u32) -> Vec<u8> {
    let at = (2..5).find(|at| address(*at) == from).unwrap();
    let digest = Message::Streams(Streams::Digest(streams));
    let ack = Message::Ack {
        sequence,
        digest: 0,
    };
    frame(&testing::name(at), &[digest, ack])
}

fn digest_of(engine: &Engine, now: Instant) -> u32 {
    match engine.digest_of_streams(now) {
        Some(Message::Streams(Streams::Digest(digest))) => digest,
        _ => 0,
    }
}

fn has_left(engine: &mut Engine) -> bool {
    std::iter::from_fn(|| engine.poll_event()).any(|event| matches!(event, Event::Left))
}

/// Lets an engine do what is due, and lose what it sends.
fn run(engine: &mut Engine, until: Instant) {
    while let Some(due) = engine.poll_timeout().filter(|due| *due <= until) {
        engine.handle_timeout(due);
        sent(engine);
    }
}

#[test]
fn what_is_announced_in_the_name_of_a_member_from_elsewhere_is_not_followed() {
    let now = Instant::now();
    let mut engine = with_members(now);
    let head = Head {
        stream: wire::member_hash("m2"),
        generation: 100,
        oldest: 1,
        newest: 5,
    };
    let announced = frame("m2", &[Message::Streams(Streams::Some(vec![head]))]);
    engine.handle_datagram(now, address(9), &announced);
    assert!(engine.user_events.claims.is_empty());
    engine.handle_datagram(now, address(2), &announced);
    assert_eq!(engine.user_events.claims.len(), 1);
}

#[test]
fn an_exchange_of_streams_by_datagram_is_not_answered() {
    let now = Instant::now();
    let mut engine = with_members(now);
    let name = ServiceName::new("deploy").unwrap();
    engine.send_event(now, name, vec![0; 1_000].into());
    engine.handle_timeout(now);
    sent(&mut engine);
    for streams in [
        Streams::Parts(Vec::new()),
        Streams::Heads {
            first: 0,
            last: u64::MAX,
            heads: Vec::new(),
        },
    ] {
        let frame = frame("m2", &[Message::Streams(streams)]);
        engine.handle_datagram(now, address(2), &frame);
        assert_eq!(sent(&mut engine), []);
        engine.handle_link(now, LinkId(1), &frame);
        assert!(!sent(&mut engine).is_empty());
    }
    // Ranges that overlap cost no more than one.
    let all = Message::Streams(Streams::Heads {
        first: 0,
        last: u64::MAX,
        heads: Vec::new(),
    });
    engine.handle_link(now, LinkId(1), &frame("m2", &vec![all; 1_000]));
    assert!(sent(&mut engine).len() < 5);
    let parts = Message::Streams(Streams::Parts(Vec::new()));
    engine.handle_link(now, LinkId(1), &frame("m2", &vec![parts; 1_000]));
    assert!(sent(&mut engine).len() < 5);
}

#[test]
fn pings_are_as_before_until_there_is_an_event() {
    let now = Instant::now();
    let mut engine = with_members(now);
    sent(&mut engine);
    let target = engine.members.me().start(engine.me);
    let ping = Message::Ping {
        sequence: 1,
        target,
        digest: 0,
    };
    let ping = frame("stranger", &[ping]);
    let answer = |engine: &mut Engine| {
        engine.handle_datagram(now, address(9), &ping);
        sent(engine).pop().unwrap().frame.len()
    };
    let before = answer(&mut engine);
    engine.send_event(now, ServiceName::new("deploy").unwrap(), [1].into());
    engine.handle_timeout(now);
    sent(&mut engine);
    assert_eq!(answer(&mut engine), before + 7);
}

#[test]
fn a_query_is_handed_over_and_answered_once() {
    let now = Instant::now();
    let mut engine = with_members(now);
    let query = |id| {
        let name = ServiceName::new("load").unwrap();
        Message::Query(Query {
            id,
            time_left: 1_000,
            name,
            payload: [1].into(),
        })
    };
    let words = |engine: &mut Engine| {
        let frames = sent(engine).into_iter().filter_map(|sent| {
            let mut reader = Reader::new(&sent.frame);
            Header::decode(&mut reader).unwrap();
            match Message::decode(&mut reader) {
                Ok(Some(Message::Answer(Answer { word, .. }))) => Some(word),
                _ => None,
            }
        });
        frames.collect::<Vec<_>>()
    };
    engine.handle_datagram(now, address(2), &frame("m2", &[query(1)]));
    assert_eq!(words(&mut engine), [Word::Declined], "nobody listens");
    engine.listen_to_queries(true);
    let mut keys = Vec::new();
    for _ in 0..3 {
        engine.handle_datagram(now, address(2), &frame("m2", &[query(2)]));
        assert_eq!(words(&mut engine), [Word::Received]);
        let events = std::iter::from_fn(|| engine.poll_event());
        keys.extend(events.filter_map(|event| match event {
            Event::Asked(asked) => Some(asked.key),
            _ => None,
        }));
    }
    assert_eq!(keys.len(), 1);
    for answer in [Some([5].into()), Some([6].into()), None] {
        engine.answer_query(now, keys[0], answer);
    }
    let answered = [Word::Answered([5].into())];
    assert_eq!(words(&mut engine), answered);
    // In case the answer got lost.
    engine.handle_datagram(now, address(2), &frame("m2", &[query(2)]));
    assert_eq!(words(&mut engine), answered);
    // From somebody else's address nothing is taken.
    engine.handle_datagram(now, address(3), &frame("m2", &[query(3)]));
    assert_eq!(words(&mut engine), []);
    // Late by seconds it is not taken for a new one, nor after a pause, or where the clock jumps.
    let mut late = now;
    for seconds in [30, 3_600] {
        late = now + Duration::from_secs(seconds);
        engine.keep_house(late);
        engine.handle_datagram(late, address(2), &frame("m2", &[query(2)]));
        assert_eq!(words(&mut engine), [], "{seconds} s later");
    }
    for id in 0..3 * QUERIES_HEARD_MAX as u64 {
        engine.handle_datagram(late, address(2), &frame("m2", &[query(100 + id)]));
    }
    assert_eq!(words(&mut engine).len(), QUERIES_OPEN_MAX);
    assert!(engine.stats().queries.refused > 0);
}

#[test]
fn a_large_query_is_on_its_way_to_a_few_at_a_time() {
    let now = Instant::now();
    let (mut engine, id) = with_large_query(now, Duration::from_secs(20));
    let asked = |engine: &mut Engine| {
        engine.handle_timeout(now);
        let sent = sent(engine).into_iter();
        let links = sent.filter_map(|sent| match sent.route {
            Route::Link(to) => Some(to),
            _ => None,
        });
        links.collect::<Vec<_>>()
    };
    let first = asked(&mut engine);
    // One of the sixteen may be this member itself.
    assert!((15..=16).contains(&first.len()), "{first:?}");
    // Who has it makes room for the next.
    for to in &first[..3] {
        let at = (2..60).find(|at| address(*at) == *to).unwrap();
        let word = Word::Received;
        let received = frame(&format!("m{at}"), &[Message::Answer(Answer { id, word })]);
        engine.handle_datagram(now, *to, &received);
    }
    let next = asked(&mut engine);
    assert!((3..=4).contains(&next.len()), "{next:?}");
}

#[test]
fn who_says_nothing_keeps_nobody_from_being_asked() {
    let mut now = Instant::now();
    let time = Duration::from_secs(5);
    let (mut engine, _) = with_large_query(now, time);
    let until = now + time;
    let mut asked = BTreeSet::new();
    while let Some(due) = engine.poll_timeout().filter(|due| *due <= until) {
        now = due;
        engine.handle_timeout(now);
        // Nobody is ever heard.
        for sent in sent(&mut engine) {
            if let Route::Link(to) = sent.route
                && sent.frame.len() > 30_000
            {
                asked.insert(to);
            }
        }
    }
    assert_eq!(asked.len(), 58);
}

#[test]
fn a_query_says_who_has_answered_and_who_has_not() {
    let mut now = Instant::now();
    let mut engine = with_members(now);
    // Of a build that knows no queries.
    meet(&mut engine, now, 5, Features::NONE);
    let name = ServiceName::new("load").unwrap();
    let terms = Terms {
        timeout: Duration::from_secs(2),
        members: None,
        answers_max: usize::MAX,
    };
    let id = engine
        .query(now, name.clone(), [1].into(), terms.clone())
        .unwrap();
    engine.handle_timeout(now);
    let answer = |id, word| [Message::Answer(Answer { id, word })];
    let said = frame("m2", &answer(id, Word::Answered([7].into())));
    for _ in 0..3 {
        engine.handle_datagram(now, address(2), &said);
    }
    engine.handle_datagram(now, address(3), &frame("m3", &answer(id, Word::Received)));
    // In the name of another member, and to a query that isn't: dropped.
    let forged = frame("m4", &answer(id, Word::Answered([8].into())));
    engine.handle_datagram(now, address(3), &forged);
    engine.handle_datagram(
        now,
        address(3),
        &frame("m3", &answer(id + 1, Word::Declined)),
    );
    let end = now + Duration::from_secs(3);
    let mut seen = Vec::new();
    let mut ended = Vec::new();
    while let Some(due) = engine.poll_timeout().filter(|due| *due < end) {
        now = now.max(due);
        engine.handle_timeout(now);
        sent(&mut engine);
        for event in std::iter::from_fn(|| engine.poll_event()) {
            match event {
                Event::QueryUpdate { update, .. } => seen.push(update),
                Event::QueryEnded { outcomes, .. } => ended.extend(outcomes),
                _ => {}
            }
        }
    }
    let answers = seen
        .iter()
        .filter(|update| matches!(update, QueryUpdate::Answered { .. }));
    assert_eq!(answers.count(), 1, "{seen:?}");
    ended.sort();
    let outcomes: Vec<_> = ended
        .iter()
        .map(|(name, outcome)| (&**name, *outcome))
        .collect();
    let (answered, received) = (Outcome::Answered, Outcome::Received);
    let expected = [
        ("m1", Outcome::Declined),
        ("m2", answered),
        ("m3", received),
        ("m4", Outcome::Silent),
        ("m5", Outcome::Declined),
    ];
    assert_eq!(outcomes, expected);
    // Late answers are dropped.
    engine.handle_datagram(now, address(2), &said);
    assert!(
        std::iter::from_fn(|| engine.poll_event())
            .all(|event| !matches!(event, Event::QueryUpdate { .. }))
    );
    for _ in 0..QUERIES_OPEN_MAX {
        engine
            .query(now, name.clone(), [1].into(), terms.clone())
            .unwrap();
    }
    let denied = engine.query(now, name, [1].into(), terms).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
}
