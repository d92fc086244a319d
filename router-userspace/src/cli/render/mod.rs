//! How answers look.

pub mod diagnostics;
pub mod lab;
pub mod plan;
