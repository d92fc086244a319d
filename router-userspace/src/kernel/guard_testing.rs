//! For the tests of what the guard sees: a network namespace of one's own, the `nft` program, packets into a TUN device.

use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;

/// Runs `test` on a thread in a new network namespace, which goes when the thread ends.
pub fn in_namespace(test: impl FnOnce() + Send) {
    if let Some(namespace) = super::tests::namespace() {
        namespace.run(test).expect("enter it");
    }
}

/// Runs `nft` in the calling thread's namespace; its output.
pub fn nft(command: &str) -> String {
    run("nft", &command.split(' ').collect::<Vec<_>>())
}

/// Runs a program in the calling thread's namespace; its output.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A packet to send in.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
    pub dscp: u8,
}

impl Default for Packet {
    fn default() -> Self {
        let (from, to) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        Packet { from, to, protocol: 17, sport: 1000, dport: 2000, dscp: 0 }
    }
}

impl Packet {
    /// The IP packet, with 16 bytes after the IP header of which the first four are the ports.
    fn bytes(&self) -> Vec<u8> {
        const PAYLOAD: u16 = 16;
        let mut packet = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = vec![0x45, self.dscp << 2, 0, 0, 0, 0, 0, 0, 64, self.protocol, 0, 0];
                header.extend(from.octets());
                header.extend(to.octets());
                header[2..4].copy_from_slice(&(20 + PAYLOAD).to_be_bytes());
                let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
                let folded = (sum & 0xffff) + (sum >> 16);
                let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("16 bits");
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                header
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut header =
                    vec![0x60 | self.dscp >> 2, (self.dscp & 3) << 6, 0, 0, 0, PAYLOAD as u8, self.protocol, 64];
                header.extend(from.octets());
                header.extend(to.octets());
                header
            }
            mixed => panic!("two families: {mixed:?}"),
        };
        packet.extend(self.sport.to_be_bytes());
        packet.extend(self.dport.to_be_bytes());
        packet.extend([0, 0, 0, 16, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        packet
    }
}

/// A TUN device that is up.
pub struct Tun(std::fs::File);

impl Tun {
    pub fn open(name: &str) -> Self {
        let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        // SAFETY: zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        // SAFETY: both ioctls take an ifreq, which lives until they return.
        unsafe {
            assert_eq!(libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request), 0, "TUNSETIFF");
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
            request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
            assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw mut request), 0, "SIOCSIFFLAGS");
            libc::close(socket);
        }
        Tun(file)
    }

    pub fn send(&mut self, packet: &Packet) {
        self.0.write_all(&packet.bytes()).expect("a packet into the TUN device");
    }
}
