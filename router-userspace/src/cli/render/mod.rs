//! How answers look.

pub mod compare;
pub mod diagnostics;
pub mod explain;
pub mod lab;
pub mod plan;
