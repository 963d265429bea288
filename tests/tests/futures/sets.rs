//! Many requests in flight: `RequestSet`, `Device::run_all`.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use ringbell::{Answer, Completion, Fault, Reason, RequestSet, Status};

use super::tasks::{Bell, Executor};
use super::{ZEROS, assert_accounts, bench};

/// Polls a stream once; `None` where it pends.
fn poll<S: Stream + Unpin>(bell: &Bell, stream: &mut S) -> Option<Option<S::Item>> {
    match Pin::new(stream).poll_next(&mut Context::from_waker(&bell.waker)) {
        Poll::Ready(item) => Some(item),
        Poll::Pending => None,
    }
}

#[test]
fn a_set_gives_completions_in_the_order_in_which_they_end_with_their_tags() {
    let mut bench = bench("order=shuffle,seed=9");
    let mut set = RequestSet::new(&bench.device, 16).unwrap();
    let bell = Bell::new();
    assert!(poll(&bell, &mut set).unwrap().is_none(), "an empty set has no next");
    for tag in 0..16 {
        set.push(100 + tag, bench.request()).unwrap();
    }
    assert!(poll(&bell, &mut set).is_none());
    let mut order = Vec::new();
    while order.len() < 16 {
        // One at a time: so the order of ending is the device's.
        assert_eq!(bench.sim.step_n(1), 1);
        bench.poller.poll();
        let (tag, done) = poll(&bell, &mut set).unwrap().unwrap();
        assert_eq!(done.request().output()[..16], ZEROS);
        order.push(tag);
        assert!(poll(&bell, &mut set).is_none_or(|next| next.is_none()));
    }
    assert_eq!(bell.wakes(), 16);
    assert!(!order.is_sorted(), "the device shuffles: {order:?}");
    assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), (100..116).collect());
    assert!(set.is_empty() && poll(&bell, &mut set).unwrap().is_none());
}

#[test]
fn a_set_is_bounded_and_a_slot_is_free_when_its_completion_is_taken_out() {
    let mut bench = bench("");
    let mut set = RequestSet::new(&bench.device, 2).unwrap();
    assert_eq!((set.capacity(), set.len()), (2, 0));
    set.push(1, bench.request()).unwrap();
    set.push(2, bench.request()).unwrap();
    bench.finish();
    let refused = set.push(3, bench.request()).unwrap_err();
    assert_eq!((refused.reason(), refused.status()), (Reason::SetFull, Status::Eagain));
    assert_eq!(bench.stats().eagain, 0, "the device was not asked");
    assert_eq!(set.try_next().unwrap().0, 1);
    set.push(3, refused.into_request()).unwrap();
    assert_eq!(set.try_next().unwrap().0, 2);
    assert!(set.try_next().is_none());
    bench.finish();
    assert_eq!(set.try_next().unwrap().0, 3);
    for capacity in [0, 65537] {
        assert!(RequestSet::new(&bench.device, capacity).is_err());
    }
}

#[test]
fn a_request_refused_leaves_the_set_as_it_was() {
    let bench = bench("");
    let mut set = RequestSet::new(&bench.device, 1).unwrap();
    assert_eq!(set.push(1, bench.bad()).unwrap_err().reason(), Reason::IvLength);
    assert!(set.is_empty());
    set.push(2, bench.request()).unwrap();
}

#[test]
fn one_wake_up_is_enough_for_many_ends() {
    let mut bench = bench("");
    let mut set = RequestSet::new(&bench.device, 32).unwrap();
    let bell = Bell::new();
    for tag in 0..32 {
        set.push(tag, bench.request()).unwrap();
    }
    assert!(poll(&bell, &mut set).is_none());
    bench.finish();
    assert_eq!(bell.wakes(), 1);
    let tags: Vec<_> = std::iter::from_fn(|| poll(&bell, &mut set).flatten().map(|(tag, _)| tag)).collect();
    assert_eq!(tags, (0..32).collect::<Vec<_>>());
}

#[test]
fn a_burst_can_be_pushed_into_a_set() {
    let mut bench = bench("");
    let mut set = RequestSet::new(&bench.device, 8).unwrap();
    let mut queue = bench.device.owned_queue().unwrap();
    queue.burst(|burst| {
        for tag in 0..8 {
            set.push_in(burst, tag, bench.request()).unwrap();
        }
        assert_eq!(set.push_in(burst, 8, bench.request()).unwrap_err().reason(), Reason::SetFull);
    });
    bench.finish();
    assert_eq!(std::iter::from_fn(|| set.try_next()).count(), 8);
}

#[test]
fn a_set_dropped_gives_the_rest_up_and_its_buffers_come_back() {
    let mut bench = bench("");
    let free = bench.device.free_bytes();
    let mut set = RequestSet::new(&bench.device, 8).unwrap();
    let bell = Bell::new();
    for tag in 0..8 {
        set.push(tag, bench.request()).unwrap();
    }
    assert!(poll(&bell, &mut set).is_none());
    assert_eq!(bench.sim.step_n(3), 3);
    bench.poller.poll();
    drop(set.try_next().unwrap());
    drop(set);
    assert_eq!(bell.kept(), 0);
    bench.finish();
    let stats = bench.stats();
    assert_eq!((stats.accepted, stats.completed, stats.detached), (8, 3, 5));
    assert_accounts(&stats);
    assert_eq!(bench.device.free_bytes(), free);
}

#[test]
fn a_cancel_by_tag_ends_those_with_the_tag() {
    let mut bench = bench("");
    let mut set = RequestSet::new(&bench.device, 4).unwrap();
    for tag in [7, 8, 7, 9] {
        set.push(tag, bench.request()).unwrap();
    }
    set.cancel(7);
    set.cancel(1);
    bench.poller.poll();
    let canceled: Vec<_> = std::iter::from_fn(|| set.try_next()).collect();
    assert_eq!(canceled.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [7, 7]);
    assert!(canceled.iter().all(|(_, done)| done.result() == Err(Fault::Canceled)));
    bench.finish();
    assert_eq!(std::iter::from_fn(|| set.try_next()).count(), 2);
}

#[test]
fn at_a_shutdown_a_set_gets_the_rest_with_the_fault() {
    let bench = bench("");
    let mut set = RequestSet::new(&bench.device, 4).unwrap();
    for tag in 0..4 {
        set.push(tag, bench.request()).unwrap();
    }
    drop(bench.poller);
    let ended: Vec<_> = std::iter::from_fn(|| set.try_next()).collect();
    assert_eq!(ended.len(), 4);
    assert!(ended.iter().all(|(_, done)| done.result() == Err(Fault::Shutdown)));
}

#[test]
fn dropping_the_wait_for_the_next_loses_nothing() {
    let mut bench = bench("");
    let mut set = RequestSet::new(&bench.device, 1).unwrap();
    let bell = Bell::new();
    set.push(5, bench.request()).unwrap();
    assert!(bell.poll(&mut set.next()).is_none());
    assert_eq!(bell.kept(), 0);
    bench.finish();
    assert_eq!(bell.poll(&mut set.next()).unwrap().unwrap().0, 5);
}

// ---- a whole iterator ----

#[test]
fn an_iterator_is_run_through_with_a_bound_and_each_number_comes_once() {
    let mut bench = bench("queue-size=8");
    for in_flight in [1, 3, 8, 20] {
        let (device, key) = (bench.device.clone(), bench.key.clone());
        let most = std::rc::Rc::new(std::cell::Cell::new((0_u64, 0_u64)));
        let made = std::rc::Rc::clone(&most);
        let requests = (0..200).map(move |_| {
            made.set((made.get().0 + 1, made.get().1));
            super::small(&device, &key, 64)
        });
        let mut stream = bench.device.run_all(requests, in_flight).unwrap();
        let (bell, mut numbers) = (Bell::new(), BTreeSet::new());
        loop {
            match poll(&bell, &mut stream) {
                Some(Some((number, done))) => {
                    assert_eq!(done.unwrap().request().output()[..16], ZEROS);
                    assert!(numbers.insert(number), "{number} came twice");
                }
                Some(None) => break,
                None => {
                    let open = most.get().0 - numbers.len() as u64;
                    // The one more is held until there is room.
                    assert!(open <= 1 + in_flight as u64, "{open} of {in_flight}");
                    let wakes = bell.wakes();
                    assert_eq!(bench.sim.step_n(1), 1);
                    bench.poller.poll();
                    assert!(bell.wakes() > wakes, "a stream was left asleep");
                }
            }
        }
        assert_eq!(numbers, (0..200).collect());
        drop(stream);
        assert_eq!(bell.kept(), 0);
    }
    assert_eq!(bench.stats().completed, 800);
}

#[test]
fn a_stream_waits_for_room_beside_others_and_leaves_no_waker_when_it_is_dropped() {
    let mut bench = bench("queue-size=8");
    let others = bench.fill();
    let requests: Vec<_> = (0..3).map(|_| bench.request()).collect();
    let (mut stream, bell) = (bench.device.run_all(requests, 2).unwrap(), Bell::new());
    assert!(poll(&bell, &mut stream).is_none());
    assert!(poll(&bell, &mut stream).is_none());
    assert_eq!(bell.kept(), 1);
    bench.sim.step();
    bench.poller.poll();
    assert_eq!(bell.wakes(), 1);
    assert!(poll(&bell, &mut stream).is_none());
    bench.finish();
    assert!(poll(&bell, &mut stream).unwrap().is_some());
    drop((stream, others));
    assert_eq!(bell.kept(), 0);
    bench.finish();
    assert_accounts(&bench.stats());
}

#[test]
fn a_request_refused_for_good_comes_out_as_such_and_the_others_go_on() {
    let mut bench = bench("");
    let requests = vec![bench.request(), bench.bad(), bench.request()];
    let (mut stream, bell) = (bench.device.run_all(requests, 8).unwrap(), Bell::new());
    let (number, refused) = poll(&bell, &mut stream).unwrap().unwrap();
    assert_eq!((number, refused.unwrap_err().reason()), (1, Reason::IvLength));
    assert!(poll(&bell, &mut stream).is_none());
    bench.finish();
    let rest: Vec<(u64, Completion)> = std::iter::from_fn(|| {
        poll(&bell, &mut stream).flatten().map(|(number, done)| (number, done.unwrap()))
    })
    .collect();
    assert_eq!(rest.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn a_task_may_await_a_set_of_its_own() {
    let mut bench = bench("queue-size=8");
    let mut executor = Executor::default();
    for _ in 0..3 {
        let mut set = RequestSet::new(&bench.device, 2).unwrap();
        let mut requests: Vec<_> = (0..20).map(|_| bench.request()).collect();
        executor.spawn(async move {
            let mut seen = 0;
            while seen < 20 {
                while let Some(request) = requests.pop() {
                    if let Err(refused) = set.push(seen, request) {
                        assert_eq!(refused.reason(), Reason::SetFull);
                        requests.push(refused.into_request());
                        break;
                    }
                }
                let next = poll_fn(|cx| Pin::new(&mut set).poll_next(cx)).await;
                assert_eq!(next.unwrap().1.result(), Ok(Answer::Yes));
                seen += 1;
            }
        });
    }
    while executor.turn() > 0 {
        assert_eq!(bench.sim.step_n(1), 1);
        bench.poller.poll();
    }
    assert_eq!(bench.stats().completed, 60);
}
