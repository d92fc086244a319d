//! What not every kernel has.
