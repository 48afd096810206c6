//! The pickle machine: a stack, a memo and an arena of plain values. Values refer to each other by index, so cycles
//! and any depth of nesting cost nothing, and every instruction adds at most one value, so memory is bounded by the
//! instructions, and those by [`MAX_INSTRUCTIONS`]. What copies a value's parts is bounded too: a value may be used
//! any number of times.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::allowed::{self, Class};
use super::opcodes::*;
use super::tensors::{StorageRef, TensorRef};
use crate::WeightsError;

/// About ten times what a full training checkpoint of Stable Diffusion has.
const MAX_INSTRUCTIONS: usize = 4 << 20;

/// Index of a value in the arena.
pub(crate) type Id = u32;

/// What a pickle's value is understood as.
#[derive(Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text, by its place in the pickle.
    Text(Range<u32>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Class(Class),
    Storage(u32),
    Tensor(u32),
    /// An instance of an allowed class: its state is looked through for tensors.
    Object {
        state: Option<Id>,
    },
    /// Bytes, big integers, sets: of no use here.
    Opaque,
}

/// A pickle that was read.
pub(crate) struct Pickle<'a> {
    pub file: &'a Path,
    pub data: &'a [u8],
    pub values: Vec<Value>,
    pub storages: Vec<StorageRef>,
    pub tensors: Vec<TensorRef>,
    pub root: Id,
    /// Just behind its STOP.
    pub end: usize,
    at: usize,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Items of dicts that were copied so far.
    copied: usize,
}

pub(super) type Step<T = ()> = Result<T, WeightsError>;

impl<'a> Pickle<'a> {
    /// Reads the pickle that begins at `start`.
    pub(crate) fn read(file: &'a Path, data: &'a [u8], start: usize) -> Step<Self> {
        let mut machine = Pickle {
            file,
            data,
            values: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
            root: 0,
            end: start,
            at: start,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        };
        for _ in 0..MAX_INSTRUCTIONS {
            machine.at = machine.end;
            let opcode = machine.byte()?;
            if opcode == STOP {
                machine.root = machine.pop()?;
                machine.stack = Vec::new();
                machine.memo = HashMap::new();
                return Ok(machine);
            }
            machine.step(opcode)?;
        }
        Err(machine.error(format!("it has more than {MAX_INSTRUCTIONS} instructions")))
    }

    pub(crate) fn error(&self, reason: impl Into<String>) -> WeightsError {
        WeightsError::Pickle { file: self.file.to_path_buf(), at: self.at, reason: reason.into() }
    }

    pub(crate) fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    pub(crate) fn text(&self, id: Id) -> Option<&'a str> {
        match self.value(id) {
            Value::Text(place) => {
                std::str::from_utf8(&self.data[place.start as usize..place.end as usize]).ok()
            }
            _ => None,
        }
    }

    fn step(&mut self, opcode: u8) -> Step {
        let value = match opcode {
            MARK => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            POP => {
                // As Python has it: a mark on top is what is popped.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
                return Ok(());
            }
            POP_MARK => return self.since_mark().map(drop),
            DUP => {
                let top = self.top()?;
                self.stack.push(top);
                return Ok(());
            }
            PROTO => {
                let version = self.byte()?;
                return if version <= 5 {
                    Ok(())
                } else {
                    Err(self.error(format!("protocol {version} is unknown")))
                };
            }
            FRAME => return self.take(8).map(drop),
            NONE => Value::None,
            NEWTRUE => Value::Bool(true),
            NEWFALSE => Value::Bool(false),
            INT => match self.line()? {
                b"00" => Value::Bool(false),
                b"01" => Value::Bool(true),
                digits => self.parsed(digits).map_or(Value::Opaque, Value::Int),
            },
            LONG => {
                let digits = self.line()?;
                let digits = digits.strip_suffix(b"L").unwrap_or(digits);
                self.parsed(digits).map_or(Value::Opaque, Value::Int)
            }
            FLOAT => {
                let digits = self.line()?;
                self.parsed(digits).map_or(Value::Opaque, Value::Float)
            }
            BININT => Value::Int(i64::from(self.number::<4>()? as u32 as i32)),
            BININT1 => Value::Int(self.number::<1>()? as i64),
            BININT2 => Value::Int(self.number::<2>()? as i64),
            BINFLOAT => Value::Float(f64::from_bits(self.number::<8>()?.swap_bytes())),
            LONG1 => self.long::<1>()?,
            LONG4 => self.long::<4>()?,
            STRING => self.quoted()?,
            UNICODE => self.unescaped_line()?,
            SHORT_BINSTRING | SHORT_BINUNICODE => self.sized_text::<1>()?,
            BINSTRING | BINUNICODE => self.sized_text::<4>()?,
            BINUNICODE8 => self.sized_text::<8>()?,
            SHORT_BINBYTES => self.sized_bytes::<1>()?,
            BINBYTES => self.sized_bytes::<4>()?,
            BINBYTES8 | BYTEARRAY8 => self.sized_bytes::<8>()?,
            EMPTY_TUPLE => Value::Tuple(Vec::new()),
            TUPLE1 => self.tuple(1)?,
            TUPLE2 => self.tuple(2)?,
            TUPLE3 => self.tuple(3)?,
            TUPLE => Value::Tuple(self.since_mark()?),
            EMPTY_LIST => Value::List(Vec::new()),
            LIST => Value::List(self.since_mark()?),
            EMPTY_DICT => Value::Dict(Vec::new()),
            DICT => {
                let items = self.since_mark()?;
                Value::Dict(self.pairs(&items)?)
            }
            EMPTY_SET => Value::Opaque,
            FROZENSET => {
                self.since_mark()?;
                Value::Opaque
            }
            APPEND => {
                let item = self.pop()?;
                return self.extend(&[item]);
            }
            APPENDS | ADDITEMS => {
                let items = self.since_mark()?;
                return self.extend(&items);
            }
            SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                return self.set_items(&[key, value]);
            }
            SETITEMS => {
                let items = self.since_mark()?;
                return self.set_items(&items);
            }
            PUT => {
                let digits = self.line()?;
                let slot = self.parsed(digits).ok_or_else(|| self.error("a memo index is no number"))?;
                return self.put(slot);
            }
            BINPUT => {
                let slot = self.number::<1>()? as u32;
                return self.put(slot);
            }
            LONG_BINPUT => {
                let slot = self.number::<4>()? as u32;
                return self.put(slot);
            }
            MEMOIZE => return self.put(self.memo.len() as u32),
            GET => {
                let digits = self.line()?;
                let slot = self.parsed(digits).ok_or_else(|| self.error("a memo index is no number"))?;
                return self.get(slot);
            }
            BINGET => {
                let slot = self.number::<1>()? as u32;
                return self.get(slot);
            }
            LONG_BINGET => {
                let slot = self.number::<4>()? as u32;
                return self.get(slot);
            }
            GLOBAL => self.named()?,
            STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.text(module), self.text(name)) {
                    (Some(module), Some(name)) => self.class(module, name)?,
                    _ => return Err(self.error("a class is named by something that is no text")),
                }
            }
            INST => {
                self.named()?;
                self.since_mark()?;
                Value::Object { state: None }
            }
            OBJ => {
                self.since_mark()?;
                Value::Object { state: None }
            }
            REDUCE | NEWOBJ => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                return self.made(class, arguments);
            }
            NEWOBJ_EX => {
                self.pop()?;
                let (arguments, class) = (self.pop()?, self.pop()?);
                return self.made(class, arguments);
            }
            BUILD => {
                let (state, object) = (self.pop()?, self.top()?);
                if let Value::Object { state: place } = &mut self.values[object as usize] {
                    *place = Some(state);
                }
                return Ok(());
            }
            BINPERSID => {
                let id = self.pop()?;
                self.storage(id)?
            }
            other => {
                return Err(self.error(format!("the instruction 0x{other:02x} is not one of a checkpoint")));
            }
        };
        self.push(value);
        Ok(())
    }

    pub(crate) fn push(&mut self, value: Value) {
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
    }

    fn pop(&mut self) -> Step<Id> {
        if self.marks.last().is_some_and(|&m| m >= self.stack.len()) {
            return Err(self.error("it takes a value from behind a mark"));
        }
        self.stack.pop().ok_or_else(|| self.error("it takes a value from an empty stack"))
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| self.error("it takes a value from an empty stack"))
    }

    fn since_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.error("it lacks a mark"))?;
        // `pop` never goes below the last mark.
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, n: usize) -> Step<Value> {
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push(self.pop()?);
        }
        items.reverse();
        Ok(Value::Tuple(items))
    }

    fn pairs(&self, items: &[Id]) -> Step<Vec<(Id, Id)>> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.error("a key of a dict lacks its value"));
        };
        Ok(pairs.iter().map(|&[k, v]| (k, v)).collect())
    }

    fn extend(&mut self, items: &[Id]) -> Step {
        let list = self.top()?;
        match &mut self.values[list as usize] {
            Value::List(list) => list.extend(items),
            Value::Object { .. } | Value::Opaque => {}
            _ => return Err(self.error("it appends to something that is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Step {
        let (pairs, dict) = (self.pairs(items)?, self.top()?);
        match &mut self.values[dict as usize] {
            Value::Dict(dict) => dict.extend(pairs),
            Value::Object { .. } | Value::Opaque => {}
            _ => return Err(self.error("it sets an item of something that is no dict")),
        }
        Ok(())
    }

    fn put(&mut self, slot: u32) -> Step {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn get(&mut self, slot: u32) -> Step {
        let id = self.memo.get(&slot).copied();
        let id = id.ok_or_else(|| self.error(format!("memo {slot} was never put")))?;
        self.stack.push(id);
        Ok(())
    }

    fn named(&mut self) -> Step<Value> {
        let (module, name) = (self.line()?, self.line()?);
        match (std::str::from_utf8(module), std::str::from_utf8(name)) {
            (Ok(module), Ok(name)) => self.class(module, name),
            _ => Err(self.error("a class's name is no text")),
        }
    }

    fn class(&self, module: &str, name: &str) -> Step<Value> {
        let short = |s: &str| s.chars().take(80).flat_map(char::escape_debug).collect::<String>();
        allowed::class(module, name).map(Value::Class).ok_or_else(|| WeightsError::ForbiddenPickle {
            file: self.file.to_path_buf(),
            at: self.at,
            name: format!("{}.{}", short(module), short(name)),
        })
    }

    /// What a class makes of its arguments, on the stack.
    fn made(&mut self, class: Id, arguments: Id) -> Step {
        let Value::Class(class) = *self.value(class) else {
            return Err(self.error("it calls something that is no class"));
        };
        let Value::Tuple(arguments) = self.value(arguments) else {
            return Err(self.error("a class is given arguments that are no tuple"));
        };
        // Nothing that is understood has more.
        let arguments: Vec<Id> = arguments.iter().take(8).copied().collect();
        let value = match class {
            Class::Dict => Value::Dict(self.items_of(&arguments)?),
            Class::Tensor => self.tensor(&arguments, None)?,
            Class::TypedTensor => {
                let dtype = arguments.get(6).map(|&id| self.value(id));
                let Some(Value::Class(Class::Type(dtype))) = dtype else {
                    return Err(self.error("a tensor's element type lacks"));
                };
                let dtype = *dtype;
                self.tensor(&arguments, Some(dtype))?
            }
            Class::First => {
                let first = arguments.first().copied();
                let first = first.ok_or_else(|| self.error("a parameter lacks its tensor"))?;
                self.stack.push(first);
                return Ok(());
            }
            _ => Value::Object { state: None },
        };
        self.push(value);
        Ok(())
    }

    /// An `OrderedDict`'s items when it is made of a list of pairs, as protocol 1 and before do.
    fn items_of(&mut self, arguments: &[Id]) -> Step<Vec<(Id, Id)>> {
        let Some(&first) = arguments.first() else { return Ok(Vec::new()) };
        let length = match self.value(first) {
            Value::List(items) => items.len(),
            Value::Dict(items) => items.len(),
            _ => return Err(self.error("a dict is made of something that is no list of pairs")),
        };
        self.copied += length;
        if self.copied > MAX_INSTRUCTIONS {
            return Err(self.error("its dicts are copied too often"));
        }
        let items = match self.value(first) {
            Value::List(items) => items,
            Value::Dict(items) => return Ok(items.clone()),
            _ => return Ok(Vec::new()),
        };
        let pair = |&id: &Id| match self.value(id) {
            Value::Tuple(pair) | Value::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => Err(self.error("a dict is made of something that is no pair")),
        };
        items.iter().map(pair).collect()
    }
}
