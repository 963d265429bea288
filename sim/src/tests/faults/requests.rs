//! Faults that strike a request or its used element.

use std::time::Duration;

use super::super::driver::ALL;
use super::{DATA, WRITTEN, accounts, ids, ids_of, ready, run, send, session, used, works};
use crate::FaultKind;

#[test]
fn a_stall_holds_all_requests_until_a_reset() {
    let (mut driver, session) = ready("fault=stall@2");
    let (sent, used) = run(&mut driver, session, 4);
    assert_eq!((used, sent[1].done(&driver)), (vec![(0, WRITTEN)], false));
    driver.sim.advance(Duration::from_secs(100));
    assert_eq!((driver.sim.step(), ids(&mut driver)), (0, vec![]));
    assert_eq!(driver.sim.stats().taken, 4);
    driver.start(ALL);
    assert_eq!(driver.sim.stats().dropped, 3);
    works(&mut driver);
    assert_eq!(driver.sim.struck(FaultKind::Stall), 1);
}

#[test]
fn a_stall_with_a_number_strikes_only_so_many() {
    assert_eq!(ids_of("fault=stall@2:x2", 5), [0, 3, 4]);
    assert_eq!(ids_of("fault=stall@2:once", 5), [0, 2, 3, 4]);
    let (mut driver, first) = ready("fault=stall@2:always");
    assert_eq!(run(&mut driver, first, 3).1.len(), 1);
    driver.start(ALL);
    let again = session(&mut driver);
    assert_eq!(run(&mut driver, again, 3).1.len(), 0, "after a reset, too");
}

#[test]
fn a_dropped_completion_is_of_a_request_that_was_done() {
    let (mut driver, session) = ready("fault=drop@2:x2");
    let (sent, used) = run(&mut driver, session, 5);
    assert_eq!(used, [(0, WRITTEN), (3, WRITTEN), (4, WRITTEN)]);
    assert!(sent.iter().all(|sent| sent.done(&driver) && sent.status(&driver) == 0));
    let stats = driver.sim.stats();
    assert_eq!((stats.taken, stats.completed, stats.dropped, stats.struck), (5, 3, 2, 2));
    works(&mut driver);
}

#[test]
fn a_duplicate_moves_the_index_by_two() {
    assert_eq!(ids_of("fault=duplicate@2", 3), [0, 1, 1, 2]);
    assert_eq!(ids_of("fault=duplicate:always", 3), [0, 0, 1, 1, 2, 2]);
}

#[test]
fn a_wrong_id_is_far_away_or_that_of_a_free_chain() {
    for text in ["fault=bad-id@2", "fault=bad-id@2:range"] {
        let (mut driver, session) = ready(text);
        let used = run(&mut driver, session, 3).1;
        assert_eq!((used.len(), used[0].0, used[2].0), (3, 0, 2));
        assert!(used[1].0 >= 1 << 16, "{used:?}");
        let stats = driver.sim.stats();
        assert_eq!((stats.completed, stats.dropped), (2, 1));
    }
    for seed in 0..50 {
        let ids = ids_of(&format!("seed={seed},fault=bad-id@2:free"), 8);
        // 0 is done; 1 is struck, and those behind it are with the device.
        assert!(ids[1] == 0 || (8..16).contains(&ids[1]), "{ids:?}");
    }
    let ids = ids_of("fault=stall:once,fault=bad-id@2:free", 16);
    assert!(ids[0] >= 1 << 16, "none is free: {ids:?}");
}

#[test]
fn a_lost_head_is_not_free_until_it_comes_back() {
    for seed in 0..50 {
        let (mut driver, session) = ready(&format!("seed={seed},fault=drop:x15,fault=bad-id@16:free"));
        let ids: Vec<_> = run(&mut driver, session, 16).1.iter().map(|(id, _)| *id).collect();
        assert!(ids[0] >= 1 << 16, "all heads are the device's: {ids:?}");
    }
}

#[test]
fn a_wrong_length_is_written_as_asked_for() {
    let (mut driver, session) = ready("fault=bad-len@1,fault=bad-len@2:100");
    let (sent, used) = run(&mut driver, session, 3);
    assert_eq!(used, [(0, u32::MAX), (1, 100), (2, WRITTEN)]);
    assert!(sent[0].done(&driver));
    assert_eq!(driver.sim.stats().completed, 3);
}

fn used_index(driver: &super::Driver) -> u16 {
    driver.memory.load_u16(driver.queues[0].used + 2, std::sync::atomic::Ordering::Acquire).unwrap()
}

#[test]
fn the_used_index_leaps() {
    let (mut driver, session) = ready("fault=used-jump@2");
    send(&mut driver, session);
    driver.sim.step();
    assert_eq!(used_index(&driver), 1);
    send(&mut driver, session);
    driver.sim.step();
    assert_eq!(used_index(&driver), 2 + 17);
    send(&mut driver, session);
    driver.sim.step();
    assert_eq!(used_index(&driver), 3 + 17, "it goes on from there");
    for (text, index) in [("fault=used-jump:back", 0xffff), ("fault=used-jump@3:back", 1)] {
        let (mut driver, session) = ready(text);
        driver.want_interrupt(0);
        for _ in 0..if index == 1 { 3 } else { 1 } {
            send(&mut driver, session);
        }
        driver.sim.step();
        assert_eq!((used_index(&driver), driver.interrupted(1)), (index, true));
        accounts(&driver);
    }
}

#[test]
fn a_status_is_garbage() {
    let (mut driver, session) = ready("fault=status-garbage@2,fault=status-garbage@3:255");
    let (sent, used) = run(&mut driver, session, 4);
    let statuses: Vec<_> = sent.iter().map(|sent| sent.status(&driver)).collect();
    assert_eq!((statuses, used.len()), (vec![0, 119, 255, 0], 4));
    assert!(sent[1].done(&driver));
}

#[test]
fn an_operation_fails_without_being_done() {
    for (text, expected) in [
        ("fault=op-error@2", [0, 1, 0, 0, 0, 0, 0, 0]),
        ("fault=op-error:nospc:x2", [5, 5, 0, 0, 0, 0, 0, 0]),
        ("fault=op-error:each:always", [1, 2, 3, 4, 5, 6, 1, 2]),
    ] {
        let (mut driver, session) = ready(text);
        let (sent, used) = run(&mut driver, session, 8);
        for ((sent, used), expected) in sent.iter().zip(used).zip(expected) {
            assert_eq!(sent.status(&driver), expected, "{text}");
            assert_eq!(sent.done(&driver), expected == 0);
            assert_eq!(used, (u32::from(sent.head), if expected == 0 { WRITTEN } else { 1 }));
        }
    }
}

#[test]
fn completions_are_reordered_from_the_struck_request_on() {
    let ids = ids_of("fault=reorder@5", 16);
    assert_eq!(ids[..4], [0, 1, 2, 3]);
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..16).collect::<Vec<_>>());
    assert_ne!(ids, sorted);
    assert_eq!(ids, ids_of("fault=reorder@5", 16), "it follows from the seed");
    assert_ne!(ids, ids_of("seed=1,fault=reorder@5", 16));
    // Only those that are struck leave their place.
    let mut ids = ids_of("fault=reorder@3:once", 16);
    ids.retain(|id| *id != 2);
    assert!(ids.is_sorted() && ids.len() == 15, "{ids:?}");
    let late = (0..20).filter(|seed| ids_of(&format!("seed={seed},fault=reorder@3:once"), 6)[2] != 2);
    assert!((1..20).contains(&late.count()), "others overtake it, or not");
}

#[test]
fn a_slow_request_comes_later_and_the_others_do_not_wait() {
    let (mut driver, session) = ready("fault=slow@2:2ms,fault=slow@3:1ms");
    assert_eq!(run(&mut driver, session, 4).1, [(0, WRITTEN), (3, WRITTEN)]);
    driver.sim.advance(Duration::from_micros(999));
    assert_eq!(driver.sim.step(), 0);
    driver.sim.advance(Duration::from_micros(1));
    assert_eq!((driver.sim.step(), ids(&mut driver)), (1, vec![2]));
    driver.sim.advance(Duration::from_millis(1));
    assert_eq!((driver.sim.step(), ids(&mut driver)), (1, vec![1]));
    // By default 100 ms, and on top of the latency.
    let (mut driver, session) = ready("latency=1ms,fault=slow");
    run(&mut driver, session, 2);
    driver.sim.advance(Duration::from_millis(1));
    assert_eq!((driver.sim.step(), ids(&mut driver)), (1, vec![1]));
    driver.sim.advance(Duration::from_micros(99_999));
    assert_eq!(driver.sim.step(), 0);
    driver.sim.advance(Duration::from_micros(1));
    assert_eq!((driver.sim.step(), ids(&mut driver)), (1, vec![0]));
}

#[test]
fn a_slow_request_comes_by_itself_on_the_thread() {
    let sim = crate::Sim::threaded("fault=slow@1:2ms".parse().unwrap()).unwrap();
    let mut driver = super::Driver::new(sim, ALL);
    let session = session(&mut driver);
    let slow = send(&mut driver, session);
    let fast = send(&mut driver, session);
    let ids = [(); 2].map(|()| driver.wait_for(|driver| driver.poll(0)).0);
    assert_eq!(ids, [u32::from(fast.head), u32::from(slow.head)]);
}

#[test]
fn a_lost_session_is_lost_for_later_requests_too() {
    let (mut driver, lost) = ready("fault=session-lost@2");
    let other = session(&mut driver);
    let sent = [lost, other, other, lost].map(|session| send(&mut driver, session));
    driver.sim.step();
    assert_eq!(sent.map(|sent| sent.status(&driver)), [0, 4, 4, 0]);
    assert_eq!(driver.sim.stats().sessions, 1);
    assert_eq!(driver.destroy(other), 4);
    assert_eq!(used(&mut driver).len(), 4);
    works(&mut driver);
}

#[test]
fn faults_combine() {
    let text =
        "fault=op-error@2:BADMSG,fault=duplicate@2,fault=drop@3,fault=bad-len@4:9,fault=used-jump@5:back";
    let (mut driver, session) = ready(text);
    let (sent, used) = run(&mut driver, session, 4);
    assert_eq!(used, [(0, WRITTEN), (1, 1), (1, 1), (3, 9)]);
    assert_eq!(sent[1].status(&driver), 2);
    assert_eq!(driver.sim.stats().struck, 4);
    // A request that is lost may yet move the index.
    send(&mut driver, session);
    driver.sim.step();
    assert_eq!(used_index(&driver), 3);
}

#[test]
fn requests_of_all_queues_count_together() {
    let (mut driver, session) = ready("queues=2,fault=drop@2");
    let (first, second) = (super::send_to(&mut driver, 1, session), super::send_to(&mut driver, 0, session));
    assert_eq!(driver.sim.step(), 1);
    // The first queue had its turn first.
    assert_eq!((driver.poll(0), driver.poll(1)), (Some((u32::from(second.head), WRITTEN)), None));
    assert!(first.done(&driver));
}

#[test]
fn chance_follows_from_the_seed_and_from_nothing_else() {
    let of = |options: &str| ids_of(options, 16);
    let some = of("seed=3,fault=drop:1/3");
    assert!((4..16).contains(&some.len()), "{some:?}");
    assert_eq!(some, of("seed=3,fault=drop:1/3"));
    assert_ne!(some, of("seed=4,fault=drop:1/3"));
    assert_eq!(some, of("seed=3,fault=drop:1/3,fault=bad-len:1/2"), "another fault moves nothing");
    assert_eq!(of("seed=3,fault=drop@9:1/1").len(), 8);
    // Nor do two faults throw the same dice.
    let both = of("seed=3,fault=duplicate:1/2,fault=drop:1/2");
    assert!(both.windows(2).any(|pair| pair[0] == pair[1]), "not all that are doubled are dropped: {both:?}");
    // Nor does a fault move the order of completions.
    let shuffled = of("seed=3,order=shuffle");
    assert_eq!(shuffled, of("seed=3,order=shuffle,fault=bad-len:1/2"));
    assert_eq!(shuffled, of("seed=3,order=shuffle,fault=reorder:1/2"));
    assert_ne!(shuffled, (0..16).collect::<Vec<_>>());
}

#[test]
fn a_number_that_is_never_reached_changes_nothing() {
    for kind in FaultKind::ALL {
        let (mut driver, session) = ready(&format!("fault={kind}@18446744073709551615"));
        for _ in 0..10 {
            let (sent, used) = run(&mut driver, session, 16);
            assert_eq!(used, sent.iter().map(|sent| (u32::from(sent.head), WRITTEN)).collect::<Vec<_>>());
            assert!(driver.interrupted(1) || driver.features & super::super::driver::EVENT_IDX != 0);
        }
        works(&mut driver);
        driver.start(ALL);
        works(&mut driver);
        assert_eq!(driver.sim.stats().struck, 0, "{kind}");
    }
}

#[test]
fn steps_complete_no_more_than_they_may() {
    let (mut driver, session) = ready("fault=slow@2:1ms,fault=drop@100");
    for _ in 0..6 {
        send(&mut driver, session);
    }
    assert_eq!((driver.sim.step_n(2), driver.sim.stats().taken), (2, 3));
    driver.sim.advance(Duration::from_millis(1));
    assert_eq!(driver.sim.step_n(2), 2);
    assert_eq!(driver.sim.step_n(usize::MAX), 2);
    let mut ids: Vec<u32> =
        used(&mut driver).iter().map(|(id, len)| (*id, assert_eq!(*len, DATA + 1)).0).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn everything_is_the_same_for_a_seed() {
    for kind in FaultKind::ALL {
        let look = || {
            let (mut driver, session) = ready(&format!("seed=5,queues=2,fault={kind}:1/2,fault=reorder@9"));
            let mut trace = Vec::new();
            for round in 0..8_u32 {
                super::send_to(&mut driver, 1, session);
                trace.push(run(&mut driver, session, 3).1);
                if driver.status() & 0x40 != 0 {
                    driver.function.reset().ok();
                    driver.function.write_config(4, &6_u16.to_le_bytes()).unwrap();
                }
                driver.sim.advance(Duration::from_millis(u64::from(round)));
            }
            (trace, driver.sim.stats())
        };
        let (trace, stats) = look();
        assert_eq!(look(), (trace, stats.clone()), "{kind}");
        assert!(stats.struck != 0, "{kind}: {stats:?}");
    }
}
