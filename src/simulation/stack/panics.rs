//! Panics of simulated processes: a task that panics would end its process in production, and must
//! not pass unseen here.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on panics on any thread are kept for it, besides being reported.
pub(super) fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let _ = SEEN.try_with(|seen| *seen.borrow_mut() = Some(info.to_string()));
            report(info);
        }));
    });
}

/// The last panic on this thread, once.
pub(super) fn take() -> Option<String> {
    SEEN.take()
}
