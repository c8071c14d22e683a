//! Tests of the line parser.

use proptest::prelude::*;

use super::*;

const SMALL: Limits = Limits { max_key_bytes: 8, max_value_bytes: 100 };

/// Parses a stream that arrives in these pieces, and says how much was ever buffered.
fn parse_pieces(limits: Limits, pieces: &[&[u8]]) -> (Vec<Item>, usize) {
    let mut parser = LineParser::new(limits);
    let (mut buffer, mut items, mut held) = (BytesMut::new(), Vec::new(), 0);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(item) = parser.next(&mut buffer) {
            items.push(item);
        }
        held = held.max(buffer.len());
    }
    items.extend(parser.abandon(&mut buffer, Refusal::Unfinished).map(Item::Request));
    (items, held)
}

fn parse(limits: Limits, stream: &[u8]) -> Vec<Item> {
    parse_pieces(limits, &[stream]).0
}

fn requests(stream: &[u8]) -> Vec<Result<Request, Refusal>> {
    let request = |item| match item {
        Item::Request(parsed) => parsed.request,
        Item::Resp => panic!("not RESP"),
    };
    parse(SMALL, stream).into_iter().map(request).collect()
}

fn set(value: &'static [u8]) -> Request {
    Request::Key(Operation::Set { key: Key("k".into()), value: value.into() })
}

#[test]
fn a_value_is_the_rest_of_the_line_as_it_came() {
    assert_eq!(requests(b"SET k  two  spaces \r\n"), [Ok(set(b" two  spaces "))]);
    assert_eq!(requests(b"set k \n"), [Ok(set(b""))]);
    assert_eq!(requests(b"SET k a\0b\xff\xfe\r\r\n"), [Ok(set(b"a\0b\xff\xfe\r"))]);
    let usage = Err(Refusal::Usage(Command::Set));
    assert_eq!(requests(b"SET k\nSET\nSET  v\n"), [usage.clone(), usage.clone(), usage]);
}

#[test]
fn keys_have_no_control_bytes_and_limits_are_exact() {
    assert_eq!(requests(b"SET a\tb v\n"), [Err(Refusal::Key(Command::Set))]);
    assert_eq!(requests(b"GET a\0\n"), [Err(Refusal::Key(Command::Get))]);
    assert_eq!(requests(b"GET 12345678\r\n").iter().filter(|r| r.is_ok()).count(), 1);
    let too_large = [Err(Refusal::KeyTooLarge(8))];
    assert_eq!(requests(b"GET 123456789\n"), too_large);
    assert_eq!(requests(b"SET 123456789 v\n"), too_large);
    let with_value =
        |length| requests(&[b"UPD k ", vec![b'v'; length].as_slice(), b"\r\n"].concat());
    assert!(matches!(with_value(100).as_slice(), [Ok(_)]));
    assert_eq!(with_value(101), [Err(Refusal::ValueTooLarge(100))]);
}

#[test]
fn blank_lines_are_ignored_and_trailing_spaces_forgiven() {
    let lines = requests(b"\n\r\n   \nPING \nGET k \nGET a b\nNODES now\n");
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0], Ok(Request::Connection(Local::Ping)));
    assert_eq!(lines[1], Ok(Request::Key(Operation::Get { key: Key("k".into()) })));
    assert_eq!(lines[2], Err(Refusal::Usage(Command::Get)));
    assert_eq!(lines[3], Err(Refusal::Usage(Command::Nodes)));
}

#[test]
fn an_oversized_line_is_refused_before_it_ends_and_the_next_one_is_heard() {
    let mut parser = LineParser::new(SMALL);
    let mut buffer =
        BytesMut::from([b"PING\r\nSET k ".as_slice(), &[b'v'; 101]].concat().as_slice());
    let mut next = |more: &[u8]| {
        buffer.extend_from_slice(more);
        parser.next(&mut buffer)
    };
    assert!(
        next(b"").is_some_and(|item| matches!(item, Item::Request(Parsed { request: Ok(_), .. })))
    );
    let refused = Parsed { end: LineEnd::CrLf, request: Err(Refusal::ValueTooLarge(100)) };
    assert_eq!(next(b""), Some(Item::Request(refused)), "no line end was seen yet");
    for _ in 0..1000 {
        assert_eq!(next(&[b'v'; 1000]), None);
    }
    assert!(matches!(next(b"v\nGET k\n"), Some(Item::Request(Parsed { request: Ok(_), .. }))));
}

#[test]
fn half_a_value_at_the_end_of_the_stream_is_not_a_request() {
    assert_eq!(requests(b"SET k hello wor"), [Err(Refusal::Unfinished)]);
    assert_eq!(requests(b"PING\n").len(), 1);
}

#[test]
fn a_line_is_abandoned_where_it_began_and_the_next_one_is_heard() {
    let mut parser = LineParser::new(SMALL);
    let mut buffer = BytesMut::from("SET k half".as_bytes());
    assert_eq!(parser.next(&mut buffer), None);
    assert_eq!(
        parser.abandon(&mut buffer, Refusal::Busy).map(|parsed| parsed.request),
        Some(Err(Refusal::Busy))
    );
    assert_eq!(parser.abandon(&mut buffer, Refusal::Busy), None);
    buffer.extend_from_slice(b" of it\nPING\n");
    assert!(matches!(parser.next(&mut buffer), Some(Item::Request(Parsed { request: Ok(_), .. }))));
}

#[test]
fn resp_is_recognized_by_the_first_byte_only() {
    assert_eq!(parse(SMALL, b"*1\r\n$4\r\nPING\r\n"), [Item::Resp]);
    assert!(matches!(requests(b"PING\n*1\n").as_slice(), [Ok(_), Err(Refusal::UnknownCommand(_))]));
}

#[test]
fn modes_that_are_only_reserved_say_so() {
    assert_eq!(requests(b"MODE Simple\n"), [Ok(Request::Connection(Local::Mode(Mode::Simple)))]);
    assert_eq!(requests(b"MODE plain\n"), [Err(Refusal::Mode(Mode::Plain))]);
    assert_eq!(requests(b"MODE fancy\n"), [Err(Refusal::Usage(Command::Mode))]);
}

/// Streams that look like requests often enough to reach every branch.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        prop::sample::select(vec![
            &b"SET "[..],
            b"get ",
            b"UPD k ",
            b"PING",
            b"NODES",
            b"MODE ",
            b"simple",
            b"\n",
            b"\r\n",
            b"\r",
            b" ",
            b"  ",
            b"key",
            b"longerkey",
            b"*",
            b"QUIT\n",
            b"\0",
            b"Unknown"
        ])
        .prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..40),
        (50usize..150).prop_map(|length| vec![b'v'; length]),
    ];
    prop::collection::vec(fragment, 0..40).prop_map(|fragments| fragments.concat())
}

proptest! {
    #[test]
    fn cut_at_any_two_places_it_is_the_same(stream in streams(), cuts in any::<[prop::sample::Index; 2]>()) {
        let mut at = cuts.map(|cut| cut.index(stream.len() + 1));
        at.sort_unstable();
        let pieces = [&stream[..at[0]], &stream[at[0]..at[1]], &stream[at[1]..]];
        prop_assert_eq!(parse_pieces(SMALL, &pieces).0, parse(SMALL, &stream));
    }

    #[test]
    fn byte_by_byte_it_is_the_same_and_holds_no_more_than_one_line(stream in streams()) {
        let pieces: Vec<&[u8]> = stream.chunks(1).collect();
        let (items, held) = parse_pieces(SMALL, &pieces);
        prop_assert_eq!(items, parse(SMALL, &stream));
        prop_assert!(held <= "SET ".len() + 8 + " ".len() + 100 + "\r".len(), "held {}", held);
    }

    #[test]
    fn whatever_comes_is_survived(stream in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(parse(SMALL, &stream).len() <= stream.len() + 1);
    }
}
