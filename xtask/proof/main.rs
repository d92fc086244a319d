//! The least program for BPF that needs a compiler, `core` and a linker.
#![no_std]
#![no_main]

/// Reads what it is given, so that `core` and debug information are in it.
#[repr(C)]
pub struct Context {
    length: u32,
    mark: u32,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub extern "C" fn proof(context: *const Context) -> i32 {
    // SAFETY: the kernel gives the program a valid context.
    let mark = unsafe { core::ptr::read_volatile(&raw const (*context).mark) };
    if mark.leading_zeros() > 8 { 0 } else { -1 }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
