//! What the C library reserves for threads.

/// Makes all threads allocate from one arena. glibc gives every new thread an arena of its own and reserves 64 MiB of
/// address space for it, whether the thread needs them or not. Where address space is limited (`ulimit -v`), as much as that
/// per thread is missed elsewhere, and a small allocation fails while most of what is reserved lies idle.
///
/// To be called before threads are started; does nothing with other C libraries, which reserve nothing.
pub fn share_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// `M_ARENA_MAX` of <malloc.h>.
        const ARENA_MAX: core::ffi::c_int = -8;
        // SAFETY: the declaration is that of <malloc.h>. mallopt changes a number of the allocator under the allocator's own
        // lock; any value is allowed, and a parameter that is not known changes nothing.
        unsafe extern "C" {
            safe fn mallopt(parameter: core::ffi::c_int, value: core::ffi::c_int) -> core::ffi::c_int;
        }
        // 0 when refused: then things are as they were.
        let _ = mallopt(ARENA_MAX, 1);
    }
}
