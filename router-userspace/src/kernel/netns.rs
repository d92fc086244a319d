//! Network namespaces: anonymous ones for the lab, scratch copies and tests; named ones for `-n NAME`.

use super::{Admin, Error, Result};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Where iproute2 keeps the named ones.
const NAMED: &str = "/run/netns";

/// A network namespace held by a file descriptor.
///
/// An anonymous one vanishes with everything in it when the last holder is gone: this handle, the sockets and file
/// descriptors opened inside, the processes and threads that run in it.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netns {
    /// A new, empty namespace with its loopback device up. The calling thread stays where it is.
    pub fn new() -> Result<Self> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::new("make a network namespace", io::Error::from(errno)))?;
            let namespace = Netns::current()?;
            Admin::open()?.up("lo")?;
            Ok(namespace)
        })
    }

    /// The calling thread's.
    pub fn current() -> Result<Self> {
        // Not /proc/self: that is the main thread's.
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(|cause| Error::new("open this thread's network namespace", cause))?;
        Ok(Netns { fd: file.into() })
    }

    /// The one behind a descriptor.
    #[cfg(test)]
    pub fn of(fd: OwnedFd) -> Self {
        Netns { fd }
    }

    /// One that `ip netns add NAME` made.
    pub fn named(name: &str) -> Result<Self> {
        let what = format!("open network namespace {name:?}");
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(Error::from_errno(what, libc::EINVAL));
        }
        match File::open(format!("{NAMED}/{name}")) {
            Ok(file) => Ok(Netns { fd: file.into() }),
            Err(cause) => {
                let missing = cause.kind() == io::ErrorKind::NotFound;
                let mut error = Error::new(what, cause);
                error.help = if missing { Some("`ip netns list` shows the names that there are") } else { error.help };
                Err(error)
            }
        }
    }

    /// The file descriptor: what `setns` and IFLA_NET_NS_FD take.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A second handle of the same namespace.
    pub fn try_clone(&self) -> Result<Self> {
        let fd =
            self.fd.try_clone().map_err(|cause| Error::new("duplicate a network namespace's descriptor", cause))?;
        Ok(Netns { fd })
    }

    /// What tells namespaces apart: device and inode number of the file.
    pub fn id(&self) -> Result<(u64, u64)> {
        let copy = self.try_clone()?;
        let stat = File::from(copy.fd).metadata();
        let stat = stat.map_err(|cause| Error::new("tell a network namespace's identity", cause))?;
        Ok((stat.st_dev(), stat.st_ino()))
    }

    /// Whether it belongs to another user namespace than that of the calling thread.
    pub fn is_of_other_users(&self) -> Result<bool> {
        /// NS_GET_USERNS (include/uapi/linux/nsfs.h).
        const NS_GET_USERNS: libc::c_ulong = 0xb701;
        let error = |cause| Error::new("tell whose a network namespace is", cause);
        // SAFETY: the request takes no argument.
        let owner = unsafe { libc::ioctl(self.fd.as_raw_fd(), NS_GET_USERNS) };
        if owner < 0 {
            let cause = io::Error::last_os_error();
            // An owner that this process cannot see is another.
            return if cause.raw_os_error() == Some(libc::EPERM) { Ok(true) } else { Err(error(cause)) };
        }
        // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
        let owner = unsafe { File::from_raw_fd(owner) }.metadata().map_err(error)?;
        let own = File::open("/proc/thread-self/ns/user").and_then(|own| own.metadata()).map_err(error)?;
        Ok((owner.st_dev(), owner.st_ino()) != (own.st_dev(), own.st_ino()))
    }

    /// Moves the calling thread, and what it starts from then on, into the namespace. A process moves as a whole only while
    /// it has one thread.
    pub fn enter(&self) -> Result<()> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::new("enter a network namespace", io::Error::from(errno)))
    }

    /// Runs `work` on a thread inside the namespace and waits for it. Sockets opened there stay in the namespace wherever
    /// they are used later. A panic goes on in the caller. The thread ends with the closure: do not start children from it
    /// that are to die with their parent, see [`Netns::spawn`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Starts `command` inside the namespace. It is killed (SIGKILL) when the calling *thread* ends, however that happens.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        let namespace = self.try_clone()?;
        let parent = nix::unistd::getpid();
        let inside = move || {
            setns(&namespace.fd, CloneFlags::CLONE_NEWNET)?;
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // The parent may have died before the line above.
            if nix::unistd::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes four system calls and allocates nothing.
        unsafe { command.pre_exec(inside) };
        let program = command.get_program().to_string_lossy().into_owned();
        command.spawn().map_err(|cause| Error::new(format!("start {program} in a network namespace"), cause))
    }
}

/// Moves the calling process into the namespace that `ip netns add NAME` made. Call it before any other thread is started.
pub fn enter_named(name: &str) -> Result<()> {
    Netns::named(name)?.enter().map_err(|mut error| {
        error.what = format!("enter network namespace {name:?}");
        // Not CAP_NET_ADMIN: `netns_install` (net/core/net_namespace.c).
        if error.errno() == nix::libc::EPERM {
            error.help = Some("needs root, or the capability CAP_SYS_ADMIN: try again with sudo");
        }
        error
    })
}

/// Runs `work` on a thread of its own, whose namespace does not matter to anybody else.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|cause| Error::new("start a thread", cause))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
