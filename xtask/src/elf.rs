//! Just enough ELF to tell a BPF object with type information from anything else.

/// The machine number of BPF in an ELF header.
const EM_BPF: u16 = 247;

/// Says what keeps `bytes` from being a little-endian BPF object with BTF, or nothing.
pub fn not_bpf_with_btf(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Some("it is no little-endian 64-bit ELF file");
    }
    let machine = bytes.get(18..20).map(|field| u16::from_le_bytes([field[0], field[1]]));
    if machine != Some(EM_BPF) {
        return Some("it is for another machine than BPF");
    }
    // Section names stand in the file as they are, each ended by a zero byte.
    if !bytes.windows(5).any(|name| name == b".BTF\0") {
        return Some("it has no BTF");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(machine: u16, names: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend(machine.to_le_bytes());
        bytes.extend(names);
        bytes
    }

    #[test]
    fn tells_bpf_with_btf_from_others() {
        assert_eq!(not_bpf_with_btf(&object(247, b"\0.text\0.BTF\0")), None);
        assert_eq!(not_bpf_with_btf(&object(247, b"\0.text\0.BTF.ext\0")), Some("it has no BTF"));
        assert_eq!(not_bpf_with_btf(&object(62, b"\0.BTF\0")), Some("it is for another machine than BPF"));
        assert!(not_bpf_with_btf(b"").is_some());
    }
}
