//! What a policy comes to on a host.
