//! Cheap time: a counter that the hot path can afford to read once for a batch.

/// The processor's counter where one is known that user space may read (the time-stamp counter of
/// x86-64, the virtual counter of aarch64), else nanoseconds of the monotonic clock. The unit is unknown until a [`TickRate`] is measured.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC is in every x86-64 processor, touches no memory, and Linux lets user space
        // use it (else the process would have been told by SIGSEGV long before: the vDSO uses it).
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let counter: u64;
        // SAFETY: CNTVCT_EL0 is in every aarch64 processor, reading it touches no memory, and Linux lets
        // user space do it (the vDSO does), or does it in its place where the processor has an erratum.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) counter, options(nomem, nostack, preserves_flags))
        };
        counter
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// How fast [`ticks`] counts.
#[derive(Clone, Copy, Debug)]
pub struct TickRate {
    per_microsecond: f64,
}

impl TickRate {
    /// Measures it, in about a fifth of a millisecond. Good to a per cent or so: for budgets and
    /// warnings, not for deadlines.
    pub fn measure() -> Self {
        use std::time::{Duration, Instant};
        let (start, first) = (Instant::now(), ticks());
        let mut elapsed;
        loop {
            elapsed = start.elapsed();
            if elapsed >= Duration::from_micros(200) {
                break;
            }
            std::hint::spin_loop();
        }
        let counted = ticks().wrapping_sub(first) as f64;
        Self { per_microsecond: (counted / (elapsed.as_nanos() as f64 / 1000.0)).max(1.0) }
    }

    /// Ticks in a duration.
    pub fn ticks_in(self, duration: std::time::Duration) -> u64 {
        (duration.as_secs_f64() * 1e6 * self.per_microsecond) as u64
    }

    /// Ticks in a second.
    pub fn per_second(self) -> f64 {
        self.per_microsecond * 1e6
    }
}
