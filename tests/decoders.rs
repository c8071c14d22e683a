//! Any bytes at everything that reads bytes: the fuzzer's functions, tried a little at every change.

use proptest::prelude::*;

#[allow(unreachable_pub, reason = "it is a library of its own for the fuzzer")]
#[path = "../fuzz/src/lib.rs"]
mod checks;

/// Bytes that look a little like something.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        prop::collection::vec(0u8..4, 0..60),
        prop::sample::select(vec!["SET key value\n", "GET k\r\n", "*1\r\n", "DEL \n", "WHERE "])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::collection::vec(fragment, 0..8).prop_map(|fragments| fragments.concat())
}

/// A record's header with small lengths and any kind, and what follows it.
fn records() -> impl Strategy<Value = Vec<u8>> {
    (0u8..5, 0u8..12, 0u8..40, prop::collection::vec(any::<u8>(), 28..100)).prop_map(
        |(kind, key, value, rest)| {
            let front = [0, 0, 0, 0, 0, kind, key, 0, value, 0, 0, 0];
            [front.as_slice(), &rest].concat()
        },
    )
}

proptest! {
    #[test]
    fn requests_are_survived(bytes in bytes()) {
        checks::line(&bytes);
    }

    #[test]
    fn records_are_survived(bytes in prop_oneof![bytes(), records()]) {
        checks::record(&bytes);
    }

    #[test]
    fn frames_are_survived(bytes in bytes()) {
        checks::frame(&bytes);
    }

    #[test]
    fn messages_of_replicas_are_survived(bytes in bytes()) {
        checks::replica(&bytes);
    }

    #[test]
    fn metadata_is_survived(bytes in bytes()) {
        checks::metadata(&bytes);
    }
}
