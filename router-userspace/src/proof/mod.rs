//! The proof that the fast path decides as the kernel does: a reference of the kernel's decision, one packet explained, many
//! packets compared.

pub mod packet;
pub mod reference;
