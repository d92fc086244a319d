//! Wayfork.
