//! CPython's functions, found in its shared library at run time, and its start. Called by `interpreter` and `object`.
//!
//! These are of the stable ABI, so the same signatures hold for 3.10 and 3.12. All of them are functions, none a macro.

#![allow(non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_long, c_ulonglong, c_void};
use std::path::Path;
use std::sync::OnceLock;
use std::{fs, mem};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::{Error, Interpreter};

/// The functions of the interpreter that runs in this process, once it does. For what Python calls back.
pub(crate) static PYTHON: OnceLock<Python> = OnceLock::new();

/// A Python object, of which we see the address alone.
#[repr(C)]
pub(crate) struct RawObject {
    _opaque: [u8; 0],
}

/// A thread's state in the interpreter.
#[repr(C)]
pub(crate) struct RawThread {
    _opaque: [u8; 0],
}

/// `PyMethodDef`: a function of ours that Python can call.
#[repr(C)]
pub(crate) struct Method {
    pub name: *const c_char,
    pub function: unsafe extern "C" fn(*mut RawObject, *mut RawObject) -> *mut RawObject,
    pub flags: c_int,
    pub about: *const c_char,
}

// SAFETY: its strings are static and its function is code; nobody writes it.
unsafe impl Sync for Method {}

/// `METH_O`: such a function takes one argument.
pub(crate) const ONE_ARGUMENT: c_int = 8;
/// `PyBUF_WRITE`.
pub(crate) const WRITABLE: c_int = 0x200;
/// `Py_file_input`: source is a module.
pub(crate) const MODULE: c_int = 257;

/// What CPython calls `destructor` of a capsule.
pub(crate) type CapsuleEnd = unsafe extern "C" fn(*mut RawObject);

macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Functions of CPython. They may be called only by the thread that holds the interpreter.
        pub(crate) struct Python {
            $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Python {
            /// # Safety
            /// The library is CPython's and stays loaded.
            unsafe fn find(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0").as_bytes();
                        // SAFETY: CPython's documentation gives this function this signature.
                        *unsafe { library.get(name) }?
                    },)*
                })
            }
        }
    };
}

functions! {
    Py_SetProgramName(*const i32);
    Py_InitializeEx(c_int);
    PyEval_SaveThread() -> *mut RawThread;
    PyEval_RestoreThread(*mut RawThread);

    Py_CompileString(*const c_char, *const c_char, c_int) -> *mut RawObject;
    PyImport_ExecCodeModule(*const c_char, *mut RawObject) -> *mut RawObject;
    PyCFunction_NewEx(*const Method, *mut RawObject, *mut RawObject) -> *mut RawObject;

    Py_DecRef(*mut RawObject);
    PyObject_GetAttrString(*mut RawObject, *const c_char) -> *mut RawObject;
    PyObject_CallObject(*mut RawObject, *mut RawObject) -> *mut RawObject;
    PyObject_Str(*mut RawObject) -> *mut RawObject;

    PyTuple_New(isize) -> *mut RawObject;
    PyTuple_SetItem(*mut RawObject, isize, *mut RawObject) -> c_int;
    PyTuple_Size(*mut RawObject) -> isize;
    PyTuple_GetItem(*mut RawObject, isize) -> *mut RawObject;
    PyLong_FromUnsignedLongLong(c_ulonglong) -> *mut RawObject;
    PyLong_AsUnsignedLongLong(*mut RawObject) -> c_ulonglong;
    PyBool_FromLong(c_long) -> *mut RawObject;
    PyUnicode_FromStringAndSize(*const c_char, isize) -> *mut RawObject;
    PyUnicode_AsUTF8AndSize(*mut RawObject, *mut isize) -> *const c_char;

    PyErr_Occurred() -> *mut RawObject;
    PyErr_Clear();
    PyErr_Fetch(*mut *mut RawObject, *mut *mut RawObject, *mut *mut RawObject);
    PyErr_NormalizeException(*mut *mut RawObject, *mut *mut RawObject, *mut *mut RawObject);

    PyCapsule_New(*mut c_void, *const c_char, Option<CapsuleEnd>) -> *mut RawObject;
    PyCapsule_IsValid(*mut RawObject, *const c_char) -> c_int;
    PyCapsule_GetPointer(*mut RawObject, *const c_char) -> *mut c_void;
    PyMemoryView_FromMemory(*mut c_char, isize, c_int) -> *mut RawObject;
}

impl Python {
    /// Loads the interpreter's shared library for the rest of the process, and finds the functions in it.
    ///
    /// Its symbols are visible to everything that is loaded later: extension modules expect them so.
    pub fn load(interpreter: &Interpreter) -> Result<Self, Error> {
        let fail = |reason| Error::LoadPython { path: interpreter.executable.clone(), reason };
        let Some(path) = interpreter.libraries.iter().find(|path| path.exists()) else {
            let folders: Vec<_> =
                interpreter.libraries.iter().map(|path| path.display().to_string()).collect();
            return Err(fail(format!("there is none of {}", folders.join(", "))));
        };
        // SAFETY: loading CPython runs no code of its own.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
            .map_err(|error| fail(error.to_string()))?;
        // SAFETY: the library is the interpreter's, and is not closed below.
        let python = unsafe { Self::find(&library) }.map_err(|error| fail(error.to_string()))?;
        mem::forget(library);
        Ok(python)
    }

    /// Starts the interpreter as if it had been called by its own name, so that it finds its environment's packages.
    /// It leaves signals to the program. The calling thread holds it afterwards.
    ///
    /// # Safety
    /// Called once in a process.
    pub unsafe fn start(&self, executable: &Path) -> Result<(), Error> {
        let fail =
            |reason: &str| Error::LoadPython { path: executable.to_path_buf(), reason: reason.to_string() };
        let name = executable.to_str().ok_or_else(|| fail("its path is not UTF-8"))?;
        if fs::metadata(executable).is_err() {
            return Err(fail("it is no longer there"));
        }
        // Characters are 32 bits wide on Linux. CPython keeps the pointer.
        let name: Vec<i32> = name.chars().map(|character| character as i32).chain([0]).collect();
        let name: &'static [i32] = name.leak();
        // SAFETY: the name is static and ends in a zero; Python does not run yet.
        unsafe {
            (self.Py_SetProgramName)(name.as_ptr());
            (self.Py_InitializeEx)(0);
        }
        Ok(())
    }
}

/// A name inside the capsules that the DLPack protocol passes around.
pub(crate) const DLTENSOR: &CStr = c"dltensor";
