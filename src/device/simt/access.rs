//! What an access to memory is, for those who check it (`shadow`), count it (`profile`) and tell of it (`report`).

/// The numbers are those of `kernels/host/simt.cpp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    #[default]
    Read = 0,
    Write = 1,
    Atomic = 2,
}

impl Kind {
    pub fn of(number: u32) -> Kind {
        match number {
            0 => Kind::Read,
            1 => Kind::Write,
            _ => Kind::Atomic,
        }
    }

    /// An atomic operation both reads and writes.
    pub fn reads(self) -> bool {
        self != Kind::Write
    }

    pub fn writes(self) -> bool {
        self != Kind::Read
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Atomic => "atomic operation",
        }
    }
}

/// One access of one thread, before it happens.
#[derive(Clone, Copy)]
pub(super) struct Access {
    /// The thread's number in its block.
    pub thread: usize,
    pub address: u64,
    pub bytes: u64,
    /// The address must be a multiple of this.
    pub alignment: u64,
    pub kind: Kind,
    /// Where in the code the access is made.
    pub place: u64,
}

impl Access {
    pub fn end(&self) -> u64 {
        self.address + self.bytes
    }

    pub fn within(&self, start: u64, end: u64) -> bool {
        start <= self.address && self.end() <= end
    }
}

/// `write of 4 bytes`
impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} byte{}", self.kind.name(), self.bytes, if self.bytes == 1 { "" } else { "s" })
    }
}

/// A buffer as an argument of a launch: the part of memory that the kernel may read there and perhaps write.
#[derive(Clone, Copy)]
pub(in crate::device) struct View {
    pub start: u64,
    pub end: u64,
    pub written: bool,
    /// The number of the kernel's parameter.
    pub argument: usize,
}
