//! Numbers on the host, shown to Python without a copy by the DLPack protocol. Called by `runtime`.
//!
//! `ttnn` asks an object for `__dlpack__`, twice per tensor, takes a capsule with a description of memory each time,
//! copies the numbers into a tensor of its own and gives the description back, all before its constructor returns.
//! There is therefore one [`HostView`], which is filled for the time of one call.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::python::{DLTENSOR, Method, ONE_ARGUMENT, PYTHON, RawObject};
use crate::{DataType, Error, TensorSpec};

/// Contents for a tensor, rows after rows. Bits of bfloat16 are the upper half of those of an f32.
#[derive(Clone, Copy, Debug)]
pub enum HostData<'a> {
    Bfloat16(&'a [u16]),
    Float32(&'a [f32]),
    Uint32(&'a [u32]),
    Int32(&'a [i32]),
}

/// Dimensions that a tensor may have.
const RANK: usize = 8;

/// `DLTensor`.
#[repr(C)]
struct Description {
    data: *mut c_void,
    device: [i32; 2],
    rank: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *const i64,
    strides: *const i64,
    offset: u64,
}

/// `DLManagedTensor`.
#[repr(C)]
struct Managed {
    description: Description,
    context: *mut c_void,
    delete: unsafe extern "C" fn(*mut Managed),
}

/// The host memory that is on show.
pub(crate) struct HostView {
    managed: Managed,
    shape: [i64; RANK],
    /// Descriptions that were given out and have not come back.
    shown: AtomicUsize,
}

impl HostData<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Bfloat16(values) => values.len(),
            Self::Float32(values) => values.len(),
            Self::Uint32(values) => values.len(),
            Self::Int32(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn dtype(&self) -> DataType {
        match self {
            Self::Bfloat16(_) => DataType::Bfloat16,
            Self::Float32(_) => DataType::Float32,
            Self::Uint32(_) => DataType::Uint32,
            Self::Int32(_) => DataType::Int32,
        }
    }

    fn pointer(&self) -> *const c_void {
        match self {
            Self::Bfloat16(values) => values.as_ptr().cast(),
            Self::Float32(values) => values.as_ptr().cast(),
            Self::Uint32(values) => values.as_ptr().cast(),
            Self::Int32(values) => values.as_ptr().cast(),
        }
    }
}

impl HostView {
    /// A view of nothing, at an address that it keeps.
    pub fn new() -> Box<Self> {
        let description = Description {
            data: ptr::null_mut(),
            // The processor's memory.
            device: [1, 0],
            rank: 0,
            code: 0,
            bits: 0,
            lanes: 1,
            shape: ptr::null(),
            // Dense.
            strides: ptr::null(),
            offset: 0,
        };
        let managed = Managed { description, context: ptr::null_mut(), delete: taken_back };
        Box::new(Self { managed, shape: [0; RANK], shown: AtomicUsize::new(0) })
    }

    /// Shows `data` in the shape of `spec` while `show` runs, which gets the view's address for [`CAPSULE`].
    pub fn show<T>(
        &mut self,
        spec: &TensorSpec,
        data: HostData,
        show: impl FnOnce(u64) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if spec.shape.len() > RANK {
            return Err(Error::Argument(format!(
                "a tensor has {RANK} dimensions at most, not {:?}",
                spec.shape
            )));
        }
        if spec.elements()? != data.len() {
            return Err(Error::Argument(format!(
                "{} values for a tensor of shape {:?}",
                data.len(),
                spec.shape
            )));
        }
        for (to, &from) in self.shape.iter_mut().zip(&spec.shape) {
            *to = from.into();
        }
        let (code, bits) = match data.dtype() {
            DataType::Bfloat16 | DataType::Bfloat8B => (4, 16),
            DataType::Float32 => (2, 32),
            DataType::Uint32 => (1, 32),
            DataType::Int32 => (0, 32),
        };
        let view = ptr::from_mut(self);
        // SAFETY: the view is ours, and whoever holds a description has this pointer too.
        let shown = unsafe {
            let shown = &raw mut (*view).shown;
            let managed = &mut (*view).managed;
            managed.description = Description {
                data: data.pointer().cast_mut(),
                rank: spec.shape.len() as i32,
                code,
                bits,
                shape: (&raw const (*view).shape).cast(),
                ..managed.description
            };
            managed.context = shown.cast();
            &*shown
        };
        let result = show(view.expose_provenance() as u64);
        match shown.load(Ordering::Acquire) {
            0 => result,
            // It would read memory that may be gone; version 0.81.1 never does this.
            _ => Err(Error::Answer("it keeps memory that it should have copied".into())),
        }
    }
}

/// `capsule(address)` in Python: a new DLPack capsule of the [`HostView`] at this address.
pub(crate) static CAPSULE: Method =
    Method { name: c"capsule".as_ptr(), function: capsule, flags: ONE_ARGUMENT, about: ptr::null() };

unsafe extern "C" fn capsule(_: *mut RawObject, address: *mut RawObject) -> *mut RawObject {
    let Some(python) = PYTHON.get() else { return ptr::null_mut() };
    // SAFETY: `runtime.py` passes the address that it got from `HostView::show`, and only while that runs.
    unsafe {
        let address = (python.PyLong_AsUnsignedLongLong)(address);
        if !(python.PyErr_Occurred)().is_null() {
            return ptr::null_mut();
        }
        let view = ptr::with_exposed_provenance_mut::<HostView>(address as usize);
        let managed = &raw mut (*view).managed;
        let capsule = (python.PyCapsule_New)(managed.cast(), DLTENSOR.as_ptr(), Some(capsule_end));
        if !capsule.is_null() {
            (*view).shown.fetch_add(1, Ordering::Relaxed);
        }
        capsule
    }
}

/// Whoever takes a description out of a capsule renames the capsule; one that was not taken comes back here.
unsafe extern "C" fn capsule_end(capsule: *mut RawObject) {
    let Some(python) = PYTHON.get() else { return };
    // SAFETY: it is a capsule of ours, and holds a description if it still has its name.
    unsafe {
        if (python.PyCapsule_IsValid)(capsule, DLTENSOR.as_ptr()) != 0 {
            taken_back((python.PyCapsule_GetPointer)(capsule, DLTENSOR.as_ptr()).cast());
        }
    }
}

unsafe extern "C" fn taken_back(managed: *mut Managed) {
    // SAFETY: the context is the counter in the view that gave the description out.
    unsafe { (*(*managed).context.cast::<AtomicUsize>()).fetch_sub(1, Ordering::Release) };
}
