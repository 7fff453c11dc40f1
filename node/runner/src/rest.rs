//! What a process at rest gives back: the pages of its program and libraries that only its start, or the last burst of
//! work, needed. The kernel still has them as a cache of files, to keep or to drop; whoever runs into one maps it again.
//!
//! A large program maps much more than it uses, since the kernel maps the surroundings of whatever is touched, and never
//! takes them back while memory is plenty. Never given back: what may be written, which includes what was relocated.

use nix::{
    libc,
    sys::resource::{UsageWho, getrusage},
    unistd::{SysconfVar, sysconf},
};
use std::{ffi::c_void, ptr, slice, time::Duration};
use tokio::{sync::Notify, time};

/// For how long a process has to be quiet, before it gives back anything.
const QUIET_FOR: Duration = Duration::from_secs(4);
/// Processor time in that time, up to which a process is quiet: one per cent.
const QUIET_USE: Duration = Duration::from_millis(40);

/// Gives back when the process has been quiet for some seconds after its start, and again after each `work` that it was
/// told of since. Waits for nothing else, so that a process without work never wakes up. Does not end.
pub async fn after(work: &Notify) {
    loop {
        quiet().await;
        give_back();
        work.notified().await;
    }
}

async fn quiet() {
    loop {
        let before = processor_time();
        time::sleep(QUIET_FOR).await;
        if processor_time().saturating_sub(before) <= QUIET_USE {
            return;
        }
    }
}

/// Of all threads, in the kernel and beside it.
fn processor_time() -> Duration {
    // The call cannot fail for the own process; a process that seems quiet gives back too often, which is harmless.
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    [usage.user_time(), usage.system_time()]
        .map(|time| {
            let seconds = Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or_default());
            seconds + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or_default())
        })
        .iter()
        .sum()
}

/// Unmaps the pages of everything that is loaded and not writable.
fn give_back() {
    // SAFETY: the callback has the signature that is asked for and keeps no pointer; its data is not used.
    unsafe { libc::dl_iterate_phdr(Some(give_back_object), ptr::null_mut()) };
}

/// Gives back one loaded object's segments. Answers 0, for the next one.
unsafe extern "C" fn give_back_object(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> libc::c_int {
    // SAFETY: the loader passes a description that is valid during this call.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: these are the object's headers, as many as it says; they stay while it is loaded.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let constant = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    for header in headers.iter().filter(constant) {
        forget(info.dlpi_addr + header.p_vaddr, header.p_memsz);
    }
    0
}

/// Unmaps the whole pages of a segment that is never written.
fn forget(start: u64, bytes: u64) {
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
    let Some(page_bytes) = page_bytes else { return };
    let (first, end) = (start.next_multiple_of(page_bytes), (start + bytes) / page_bytes * page_bytes);
    let (Ok(address), Ok(length)) = (usize::try_from(first), usize::try_from(end.saturating_sub(first))) else {
        return;
    };
    // SAFETY: each page is mapped from a file, privately and never written, so it comes back as it was when it is touched.
    // Where the kernel refuses, the pages stay.
    unsafe { libc::madvise(ptr::with_exposed_provenance_mut(address), length, libc::MADV_DONTNEED) };
}
