//! BPF programs of others that could act on a packet: what the guard cannot ask netlink for.

use super::error::os_error;
use super::{Error, FastPath};
use crate::kernel::ForeignPrograms;
use aya::programs::links::{LinkError, LinkType};
use aya::programs::loaded_links;

impl FastPath {
    /// The programs of others on these interfaces and on netfilter's hooks. What cannot be listed is a doubt.
    pub fn foreign(&mut self, interfaces: impl IntoIterator<Item = u32>) -> ForeignPrograms {
        ForeignPrograms { netfilter: netfilter_programs(), ..self.foreign_tcx(interfaces) }
    }

    /// Those at TCX alone: cheap enough to be asked for often.
    pub fn foreign_tcx(&mut self, interfaces: impl IntoIterator<Item = u32>) -> ForeignPrograms {
        let mut programs = ForeignPrograms::default();
        for ifindex in interfaces {
            let (ingress, egress) = (self.foreign_programs(ifindex), self.egress_programs(ifindex));
            for (found, all) in [(ingress, &mut programs.tcx), (egress, &mut programs.tcx_egress)] {
                match found {
                    Ok(found) if found.is_empty() => {}
                    Ok(found) => {
                        all.insert(ifindex, found.into_iter().map(|program| program.name).collect());
                    }
                    // It went meanwhile, and with it whatever was attached to it.
                    Err(Error::NoInterface(_)) => {}
                    Err(error) => programs.doubts.push(error.to_string()),
                }
            }
        }
        programs
    }
}

/// The netfilter programs (6.4 and later) of the whole machine, as messages call them: a link does not tell its namespace.
/// Where they cannot be listed, one that says so stands for all that there may be.
pub fn netfilter_programs() -> Vec<String> {
    list_netfilter_programs().unwrap_or_else(|error| vec![unlisted(error)])
}

fn unlisted(error: LinkError) -> String {
    format!("BPF programs, which cannot be listed ({})", Error::from_any("list BPF links", error))
}

fn list_netfilter_programs() -> Result<Vec<String>, LinkError> {
    let mut found = Vec::new();
    for link in loaded_links() {
        match link {
            // A type that the loader does not know is not this one.
            Ok(link) if link.link_type().is_ok_and(|kind| kind == LinkType::Netfilter) => {
                found.push(format!("BPF program {} (link {})", link.program_id(), link.id()));
            }
            Ok(_) => {}
            // Gone between being listed and being looked at.
            Err(error) if os_error(&error) == Some(libc::ENOENT) => {}
            // Not there yet: `bpf_link_by_id` says so of a link that is still being made (`bpf_link_settle`, kernel/bpf/syscall.c), and
            // where links come and go all the time there always is one. Its maker has not been told of it either, so it counts as one that
            // is made right after this look. The next look finds it.
            Err(error) if os_error(&error) == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
