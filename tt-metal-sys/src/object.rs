//! Python objects as owned values, calls with them, and what Python raises. Called by `runtime` and `interpreter`.
//!
//! Objects exist on the interpreter's thread alone, while it holds the interpreter: their raw pointers keep them from
//! moving to another thread, and jobs keep none but those that live in the thread's own state.

use std::ffi::{CStr, c_char};
use std::ptr::{self, NonNull};
use std::slice;

use crate::Error;
use crate::python::{MODULE, Method, Python, RawObject, WRITABLE};

/// One owned reference.
pub(crate) struct Object {
    python: &'static Python,
    pointer: NonNull<RawObject>,
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and is not used again.
        unsafe { (self.python.Py_DecRef)(self.pointer.as_ptr()) }
    }
}

impl Python {
    /// Takes over what a function returned; null means that it raised.
    ///
    /// # Safety
    /// `pointer` is null or a reference that the caller owns.
    unsafe fn own(&'static self, pointer: *mut RawObject) -> Result<Object, Error> {
        match NonNull::new(pointer) {
            Some(pointer) => Ok(Object { python: self, pointer }),
            None => Err(self.raised()),
        }
    }

    pub fn integer(&'static self, value: u64) -> Result<Object, Error> {
        // SAFETY: it returns a new reference.
        unsafe { self.own((self.PyLong_FromUnsignedLongLong)(value)) }
    }

    pub fn boolean(&'static self, value: bool) -> Result<Object, Error> {
        // SAFETY: it returns a new reference.
        unsafe { self.own((self.PyBool_FromLong)(value.into())) }
    }

    pub fn text(&'static self, value: &str) -> Result<Object, Error> {
        // SAFETY: the bytes are those of a string, and are copied.
        unsafe { self.own((self.PyUnicode_FromStringAndSize)(value.as_ptr().cast(), value.len() as isize)) }
    }

    /// A function of ours.
    pub fn function(&'static self, method: &'static Method) -> Result<Object, Error> {
        // SAFETY: Python keeps the pointer to the method, which is static; it has no object and no module.
        unsafe { self.own((self.PyCFunction_NewEx)(method, ptr::null_mut(), ptr::null_mut())) }
    }

    /// Bytes that Python may write.
    ///
    /// # Safety
    /// The bytes outlive the object and everything that is made from it.
    pub unsafe fn bytes(&'static self, bytes: &mut [u8]) -> Result<Object, Error> {
        // SAFETY: promised by the caller.
        unsafe {
            self.own((self.PyMemoryView_FromMemory)(
                bytes.as_mut_ptr().cast(),
                bytes.len() as isize,
                WRITABLE,
            ))
        }
    }

    /// Runs `source` as a module.
    pub fn module(&'static self, name: &CStr, source: &CStr) -> Result<Object, Error> {
        // SAFETY: the strings end in zeros; both functions return new references.
        unsafe {
            let code = self.own((self.Py_CompileString)(source.as_ptr(), name.as_ptr(), MODULE))?;
            self.own((self.PyImport_ExecCodeModule)(name.as_ptr(), code.pointer.as_ptr()))
        }
    }

    /// Takes the current exception away and gives its text; of anything but a `RuntimeError` also the type.
    fn raised(&'static self) -> Error {
        let (mut kind, mut value, mut trace) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: the three become references of ours, or stay null.
        let (kind, value, _trace) = unsafe {
            (self.PyErr_Fetch)(&mut kind, &mut value, &mut trace);
            (self.PyErr_NormalizeException)(&mut kind, &mut value, &mut trace);
            let own = |pointer| NonNull::new(pointer).map(|pointer| Object { python: self, pointer });
            (own(kind), own(value), own(trace))
        };
        let kind =
            kind.and_then(|kind| kind.attribute(c"__name__").ok()).and_then(|name| name.to_text().ok());
        let text = value.and_then(|value| value.describe()).unwrap_or_default();
        Error::Runtime(match kind.as_deref() {
            None | Some("RuntimeError") => text,
            Some(kind) => format!("{kind}: {text}"),
        })
    }
}

impl Object {
    pub fn attribute(&self, name: &CStr) -> Result<Object, Error> {
        // SAFETY: it returns a new reference.
        unsafe { self.python.own((self.python.PyObject_GetAttrString)(self.pointer.as_ptr(), name.as_ptr())) }
    }

    /// Calls it. An argument that could not be made is the call's error.
    pub fn call<const COUNT: usize>(
        &self,
        arguments: [Result<Object, Error>; COUNT],
    ) -> Result<Object, Error> {
        let python = self.python;
        // SAFETY: it returns a new reference.
        let tuple = unsafe { python.own((python.PyTuple_New)(COUNT as isize))? };
        for (index, argument) in arguments.into_iter().enumerate() {
            let pointer = argument?.into_raw();
            // SAFETY: the tuple is new, nobody else has it, and it takes the reference over, also when it fails.
            if unsafe { (python.PyTuple_SetItem)(tuple.pointer.as_ptr(), index as isize, pointer) } != 0 {
                return Err(python.raised());
            }
        }
        // SAFETY: both live; it returns a new reference.
        unsafe { python.own((python.PyObject_CallObject)(self.pointer.as_ptr(), tuple.pointer.as_ptr())) }
    }

    fn into_raw(self) -> *mut RawObject {
        let pointer = self.pointer.as_ptr();
        std::mem::forget(self);
        pointer
    }

    pub fn to_integer(&self) -> Result<u64, Error> {
        // SAFETY: the object lives.
        unsafe { self.python.read_integer(self.pointer.as_ptr()) }
    }

    pub fn to_text(&self) -> Result<String, Error> {
        let mut length = 0;
        // SAFETY: the object lives, and with it the characters, which are copied.
        unsafe {
            let text: *const c_char =
                (self.python.PyUnicode_AsUTF8AndSize)(self.pointer.as_ptr(), &mut length);
            if text.is_null() {
                return Err(self.python.raised());
            }
            let bytes = slice::from_raw_parts(text.cast(), length as usize);
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }

    /// The numbers of a tuple of integers.
    pub fn to_integers(&self) -> Result<Vec<u64>, Error> {
        let python = self.python;
        // SAFETY: the object lives; items are borrowed from it.
        unsafe {
            let length = (python.PyTuple_Size)(self.pointer.as_ptr());
            if length < 0 {
                return Err(python.raised());
            }
            (0..length)
                .map(|index| python.read_integer((python.PyTuple_GetItem)(self.pointer.as_ptr(), index)))
                .collect()
        }
    }

    /// What `str` makes of it. Exceptions whose own text fails have none.
    fn describe(&self) -> Option<String> {
        // SAFETY: the object lives; it returns a new reference or null.
        let text = NonNull::new(unsafe { (self.python.PyObject_Str)(self.pointer.as_ptr()) });
        let text = text.and_then(|pointer| Object { python: self.python, pointer }.to_text().ok());
        if text.is_none() {
            // SAFETY: nothing is passed.
            unsafe { (self.python.PyErr_Clear)() };
        }
        text
    }
}

impl Python {
    /// # Safety
    /// `pointer` is a living object.
    unsafe fn read_integer(&'static self, pointer: *mut RawObject) -> Result<u64, Error> {
        // SAFETY: promised by the caller. The largest value may also mean that it raised.
        unsafe {
            let value = (self.PyLong_AsUnsignedLongLong)(pointer);
            if value == u64::MAX && !(self.PyErr_Occurred)().is_null() {
                return Err(self.raised());
            }
            Ok(value)
        }
    }
}
