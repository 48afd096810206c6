//! The numbers and texts that stand in a pickle itself. Lengths are checked against what is left before anything is
//! taken.

use std::ops::Range;

use super::machine::{Pickle, Step, Value};

impl<'a> Pickle<'a> {
    pub(super) fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let data = self.data;
        let taken = self.end.checked_add(n).and_then(|end| data.get(self.end..end));
        let taken = taken.ok_or_else(|| self.error("it ends without its last instruction, STOP"))?;
        self.end += n;
        Ok(taken)
    }

    /// Little-endian and unsigned.
    pub(super) fn number<const N: usize>(&mut self) -> Step<u64> {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(self.take(N)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn sized<const N: usize>(&mut self) -> Step<Range<usize>> {
        let length = self.number::<N>()?;
        let left = self.data.len() - self.end;
        match usize::try_from(length) {
            Ok(n) if n <= left => {
                let start = self.end;
                self.end += n;
                Ok(start..start + n)
            }
            _ => Err(self.error(format!("a text of {length} bytes is announced where {left} are left"))),
        }
    }

    pub(super) fn sized_bytes<const N: usize>(&mut self) -> Step<Value> {
        self.sized::<N>().map(|_| Value::Opaque)
    }

    pub(super) fn sized_text<const N: usize>(&mut self) -> Step<Value> {
        let place = self.sized::<N>()?;
        self.text_at(place)
    }

    /// Text that is not UTF-8, such as Python 2's byte strings, is kept as something of no use.
    fn text_at(&self, place: Range<usize>) -> Step<Value> {
        if std::str::from_utf8(&self.data[place.clone()]).is_err() {
            return Ok(Value::Opaque);
        }
        match (u32::try_from(place.start), u32::try_from(place.end)) {
            (Ok(start), Ok(end)) => Ok(Value::Text(start..end)),
            _ => Err(self.error("it goes on beyond 4 GiB")),
        }
    }

    pub(super) fn long<const N: usize>(&mut self) -> Step<Value> {
        let place = self.sized::<N>()?;
        let bytes = &self.data[place];
        if bytes.len() > 8 {
            return Ok(Value::Opaque);
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = if negative { [0xff; 8] } else { [0; 8] };
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    /// Up to the next line feed, at most a few thousand bytes away.
    pub(super) fn line(&mut self) -> Step<&'a [u8]> {
        let data = self.data;
        let rest = &data[self.end..data.len().min(self.end + 4096)];
        let length = rest.iter().position(|&b| b == b'\n');
        let length = length.ok_or_else(|| self.error("a line does not end"))?;
        self.end += length + 1;
        let line = &rest[..length];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    pub(super) fn parsed<T: std::str::FromStr>(&self, digits: &[u8]) -> Option<T> {
        std::str::from_utf8(digits).ok()?.trim().parse().ok()
    }

    /// Protocol 0's text, in quotes. One with escapes is no tensor's name.
    pub(super) fn quoted(&mut self) -> Step<Value> {
        let start = self.end;
        let line = self.line()?;
        let quoted = matches!(line, [q @ (b'\'' | b'"'), .., r] if q == r);
        if !quoted {
            return Err(self.error("a text lacks its quotes"));
        }
        if line.contains(&b'\\') {
            return Ok(Value::Opaque);
        }
        self.text_at(start + 1..start + line.len() - 1)
    }

    pub(super) fn unescaped_line(&mut self) -> Step<Value> {
        let start = self.end;
        let line = self.line()?;
        if line.contains(&b'\\') {
            return Ok(Value::Opaque);
        }
        self.text_at(start..start + line.len())
    }
}
