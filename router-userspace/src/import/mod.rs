//! Policy files made from what is there. Pure: text from a snapshot of the host.

pub mod kernel;
mod write;

#[cfg(test)]
mod tests;
