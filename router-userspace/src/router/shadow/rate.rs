//! How many packets are sampled.

use std::str::FromStr;

/// The share of the packets that the fast path decides itself which is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    text: String,
    threshold: u32,
}

/// Not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRate {
    /// Neither form.
    #[error("{0:?} is no rate; give one packet in N as 1/N (such as 1/1000), or a share as N% (such as 0.1%)")]
    Form(String),
    /// Larger than all, or too small to tell from none.
    #[error("{0} is not between one packet in 1,000,000,000 and all of them; give a rate such as 1/1000 or 0.1%")]
    Range(String),
}

impl Rate {
    /// The rarest rate: one in that many.
    const RAREST: f64 = 1e9;

    /// A packet is sampled where 32 random bits are at most this. Never 0.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Rate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        let text = text.trim();
        // `f64` reads also what is no number in these forms: inf, 1e3, +5.
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            plain.then(|| digits.parse::<f64>().ok()).flatten()
        };
        let share = match (text.strip_prefix("1/"), text.strip_suffix('%')) {
            (Some(packets), None) if !packets.contains('.') => number(packets).map(|packets| 1.0 / packets),
            (None, Some(percent)) => number(percent).map(|percent| percent / 100.0),
            _ => None,
        };
        let share = share.ok_or_else(|| BadRate::Form(text.to_owned()))?;
        if !(1.0 / Self::RAREST..=1.0).contains(&share) {
            return Err(BadRate::Range(text.to_owned()));
        }
        // `threshold + 1` of the 2^32 values are sampled; at the rarest rate these are four. Casts of floats saturate.
        let threshold = (share * 4_294_967_296.0).round() as u64 - 1;
        Ok(Rate { text: text.to_owned(), threshold: u32::try_from(threshold).unwrap_or(u32::MAX) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn threshold(text: &str) -> u32 {
        text.parse::<Rate>().unwrap().threshold()
    }

    #[test]
    fn both_forms_say_the_same() {
        assert_eq!(threshold("1/1"), u32::MAX, "every packet");
        assert_eq!(threshold("100%"), u32::MAX);
        assert_eq!(threshold("1/2"), u32::MAX / 2);
        assert_eq!(threshold("50%"), threshold("1/2"));
        assert_eq!(threshold("0.1%"), threshold("1/1000"));
        assert_eq!(threshold("1/1000"), 4_294_966);
        assert_eq!(threshold("1/1000000000"), 3);
        assert_eq!(" 0.1% ".parse::<Rate>().unwrap().to_string(), "0.1%");
    }

    #[test]
    fn what_is_no_rate_is_refused_with_a_mend() {
        for text in
            ["", "1000", "often", "2/3", "1/", "%", "1/1.5", "1/1%", "-1%", "1e1%", "inf%", "1/-5", "+1%", "1..2%"]
        {
            assert_eq!(text.parse::<Rate>(), Err(BadRate::Form(text.to_owned())));
        }
        for text in ["1/0", "0%", "101%", "1/1000000001", "0.00000000001%"] {
            assert_eq!(text.parse::<Rate>(), Err(BadRate::Range(text.to_owned())));
        }
        assert!("often".parse::<Rate>().unwrap_err().to_string().contains("1/1000"));
    }
}
