//! The crate offers no way to choose the DHT's bootstrap hosts: it always builds mainline's default client. So this
//! program answers for the system's resolver: the default hosts are a loopback address, all others do not exist.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    sync::OnceLock,
};

use anyhow::{Result, anyhow};
use mainline::DEFAULT_BOOTSTRAP_NODES;

static TARGET: OnceLock<CString> = OnceLock::new();

type GetAddrInfo = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const libc::addrinfo,
    *mut *mut libc::addrinfo,
) -> c_int;

/// From now on the public bootstrap hosts are `ip`.
pub fn redirect(ip: &str) -> Result<()> {
    TARGET
        .set(CString::new(ip)?)
        .map_err(|_| anyhow!("redirected already"))
}

/// What std calls to look a name up: the linker prefers a program's own symbol to the C library's.
///
/// # Safety
/// As of the C library's function, which gets the call in the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
) -> c_int {
    let is_ours = !node.is_null()
        && DEFAULT_BOOTSTRAP_NODES.iter().any(|known| {
            let host = known.split(':').next().unwrap_or_default();
            unsafe { CStr::from_ptr(node) }.to_bytes() == host.as_bytes()
        });
    let Some(target) = TARGET.get().filter(|_| is_ours) else {
        return libc::EAI_NONAME;
    };
    let real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"getaddrinfo".as_ptr()) };
    if real.is_null() {
        return libc::EAI_FAIL;
    }
    let real: GetAddrInfo = unsafe { std::mem::transmute(real) };
    unsafe { real(target.as_ptr(), service, hints, result) }
}
