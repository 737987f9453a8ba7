//! The memory of libtorch's tensors on the processor, counted and rationed.
//!
//! libtorch's allocator for the processor is `posix_memalign` and `free` of the C library. A test program that defines
//! the two is asked instead of the C library, so it sees every tensor come and go and can refuse one, as a full
//! machine would: libtorch then says what it says there.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

unsafe extern "C" {
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
    fn __libc_free(block: *mut c_void);
}

const SLOTS: usize = 1 << 16;
/// A block is in one of this many slots from where its address says, so that one which is no tensor is known soon.
const PROBED: usize = 16;
static BLOCKS: [AtomicUsize; SLOTS] = [const { AtomicUsize::new(0) }; SLOTS];
static SIZES: [AtomicUsize; SLOTS] = [const { AtomicUsize::new(0) }; SLOTS];
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static RATION: AtomicUsize = AtomicUsize::new(usize::MAX);
static HAS_REFUSED: AtomicBool = AtomicBool::new(false);

/// Bytes of tensors that live.
pub fn live() -> usize {
    LIVE.load(Relaxed)
}

/// Most bytes that lived together since [`reset_peak`].
pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// Begins to measure the peak anew.
pub fn reset_peak() {
    PEAK.store(live(), Relaxed);
}

/// From now on no tensor is granted with which more than `bytes` would live.
pub fn ration(bytes: usize) {
    HAS_REFUSED.store(false, Relaxed);
    RATION.store(bytes, Relaxed);
}

/// Whether a tensor was refused since [`ration`].
pub fn has_refused() -> bool {
    HAS_REFUSED.load(Relaxed)
}

fn slots(block: usize) -> impl Iterator<Item = usize> {
    let start = (block >> 6).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
    (0..PROBED).map(move |step| (start + step) % SLOTS)
}

/// What libtorch asks for a tensor.
///
/// # Safety
/// As `posix_memalign` of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    if LIVE.load(Relaxed) + size > RATION.load(Relaxed) {
        HAS_REFUSED.store(true, Relaxed);
        return 12; // ENOMEM
    }
    // SAFETY: the alignment is a power of two, as the caller promises.
    let block = unsafe { __libc_memalign(alignment, size) };
    if block.is_null() {
        return 12;
    }
    // SAFETY: the caller gives a place for the answer.
    unsafe { *place = block };
    let is_free = |&slot: &usize| BLOCKS[slot].compare_exchange(0, block as usize, Relaxed, Relaxed).is_ok();
    // One that finds no slot would be one tensor too few: better to end the test.
    let Some(slot) = slots(block as usize).find(is_free) else { std::process::abort() };
    SIZES[slot].store(size, Relaxed);
    let live = LIVE.fetch_add(size, Relaxed) + size;
    PEAK.fetch_max(live, Relaxed);
    0
}

/// Every block of the process, tensors among them.
///
/// # Safety
/// As `free` of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    let is_it = |&slot: &usize| BLOCKS[slot].load(Relaxed) == block as usize;
    if !block.is_null()
        && let Some(slot) = slots(block as usize).find(is_it)
    {
        LIVE.fetch_sub(SIZES[slot].load(Relaxed), Relaxed);
        BLOCKS[slot].store(0, Relaxed);
    }
    // SAFETY: the block comes from the C library, whoever asked for it.
    unsafe { __libc_free(block) }
}
