//! How answers look.

pub mod lab;
