//! Attaching: TCX where the kernel has it, a clsact filter where not.

use super::error::os_error;
use super::load::program;
use super::{Error, FastPath, PROGRAM, Result};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions, TcError};
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType};
use std::ffi::CStr;
use std::io;

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attached {
    /// By a TCX link (6.6), behind the programs that are there already; it vanishes with the process.
    Tcx,
    /// By a filter of the clsact qdisc, which outlives the process; inert without a lease.
    Clsact,
}

/// A program of somebody else's at TCX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignProgram {
    /// Program id, as bpftool shows it.
    pub id: u32,
    /// Its name, cut to 15 characters by the kernel.
    pub name: String,
}

/// One attachment.
#[derive(Debug)]
pub(super) struct Attachment {
    how: Attached,
    link: SchedClassifierLinkId,
    /// The clsact qdisc was not there before.
    made_clsact: bool,
}

impl FastPath {
    /// Attaches to TC ingress of an interface; nothing where it is attached already.
    pub fn attach(&mut self, ifindex: u32) -> Result<Attached> {
        match self.attach_by(ifindex, Attached::Tcx) {
            // Kernels before 6.6 do not know the attach type.
            Err(error) if error.errno() == Some(libc::EINVAL) => self.attach_by(ifindex, Attached::Clsact),
            other => other,
        }
    }

    /// Attaches in a way of the caller's choice, for tests of the older one.
    pub fn attach_by(&mut self, ifindex: u32, how: Attached) -> Result<Attached> {
        if let Some(attachment) = self.attachments.get(&ifindex) {
            return Ok(attachment.how);
        }
        let name = interface_name(ifindex)?;
        let what = format!("attach to {name}");
        let mut made_clsact = false;
        let options = match how {
            Attached::Tcx => TcAttachOptions::TcxOrder(LinkOrder::last()),
            Attached::Clsact => {
                made_clsact = match tc::qdisc_add_clsact(&name) {
                    Ok(()) => true,
                    Err(error) if os_error(&error) == Some(libc::EEXIST) => false,
                    Err(error) => return Err(Error::from_any(format!("add the clsact qdisc to {name}"), error)),
                };
                TcAttachOptions::Netlink(NlOptions::default())
            }
        };
        let program = program(&mut self.ebpf, PROGRAM)?;
        let link = program
            .attach_with_options(&name, TcAttachType::Ingress, options)
            .map_err(|error| Error::from_any(&what, error))?;
        self.attachments.insert(ifindex, Attachment { how, link, made_clsact });
        // aya takes a name: another interface may have got this one in between.
        if interface_name(ifindex).ok().as_deref() != Some(name.as_str()) {
            self.detach(ifindex)?;
            return Err(Error::NoInterface(ifindex));
        }
        Ok(how)
    }

    /// How the program is attached to an interface.
    pub fn attached(&self, ifindex: u32) -> Option<Attached> {
        self.attachments.get(&ifindex).map(|attachment| attachment.how)
    }

    /// Detaches; nothing where it is not attached, or where the interface is gone and the attachment with it. True where the
    /// clsact qdisc was made for this attachment: it is empty now, unless others have come, and may be removed.
    pub fn detach(&mut self, ifindex: u32) -> Result<bool> {
        let Some(attachment) = self.attachments.remove(&ifindex) else { return Ok(false) };
        match program(&mut self.ebpf, PROGRAM)?.detach(attachment.link) {
            Ok(()) => Ok(attachment.made_clsact),
            Err(_) if interface_name(ifindex).is_err() => Ok(false),
            Err(error) => Err(Error::from_any(format!("detach from interface {ifindex}"), error)),
        }
    }

    /// Removes the clsact filters that a killed run left on these interfaces, told by their name; says from which.
    /// Never another's filter.
    pub fn remove_leftovers(interfaces: &[u32]) -> Result<Vec<u32>> {
        let mut removed = Vec::new();
        for &ifindex in interfaces {
            let Ok(name) = interface_name(ifindex) else { continue };
            match tc::qdisc_detach_program(&name, TcAttachType::Ingress, PROGRAM) {
                Ok(()) => removed.push(ifindex),
                // No filter of that name, or no clsact qdisc to have one.
                Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if matches!(os_error(&error), Some(libc::EINVAL | libc::ENOENT)) => {}
                Err(error) => {
                    return Err(Error::from_any(
                        format!("remove the filter that an earlier run left on {name}"),
                        error,
                    ));
                }
            }
        }
        Ok(removed)
    }

    /// The programs of others at TCX ingress of an interface, in order; none on kernels without TCX (before 6.6), where
    /// others can only be clsact filters. The program of a running router is no other's: it has this one's name and, where it
    /// is of the same build, its instructions.
    pub fn foreign_programs(&mut self, ifindex: u32) -> Result<Vec<ForeignProgram>> {
        self.programs_at(ifindex, TcAttachType::Ingress)
    }

    /// The same at TCX egress.
    pub fn egress_programs(&mut self, ifindex: u32) -> Result<Vec<ForeignProgram>> {
        self.programs_at(ifindex, TcAttachType::Egress)
    }

    fn programs_at(&mut self, ifindex: u32, side: TcAttachType) -> Result<Vec<ForeignProgram>> {
        let name = interface_name(ifindex)?;
        let what = format!("list the TCX programs of {name}");
        let programs = match SchedClassifier::query_tcx(&name, side) {
            Ok((_, programs)) if programs.is_empty() => return Ok(Vec::new()),
            Ok((_, programs)) => programs,
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(Error::from_any(what, error)),
        };
        let own = program(&mut self.ebpf, PROGRAM)?.info().map_err(|error| Error::from_any(&what, error))?;
        let is_own = |other: &ProgramInfo| (other.name(), other.tag()) == (own.name(), own.tag());
        let foreign = programs.iter().filter(|program| !is_own(program));
        Ok(foreign
            .map(|program| ForeignProgram {
                id: program.id(),
                name: String::from_utf8_lossy(program.name()).into_owned(),
            })
            .collect())
    }
}

/// The present name of an interface of the calling thread's namespace.
pub(super) fn interface_name(ifindex: u32) -> Result<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as long as the function demands.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    let name = CStr::from_bytes_until_nul(&name).ok().filter(|_| !found.is_null());
    name.and_then(|name| name.to_str().ok()).map(str::to_owned).ok_or(Error::NoInterface(ifindex))
}
