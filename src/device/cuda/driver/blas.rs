//! Products by cuBLASLt: a plan for each shape, with the way to compute it that was the fastest when it was measured. Called by
//! `device`.
//!
//! cuBLASLt counts columns first: `out^T [n, m] = weight [k, n]^T x^T [k, m]`, so that both factors lie along the sums, and the bias,
//! one number for each of n, is one for each row.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use cudarc::cublaslt::{result, sys};

use super::super::error::CudaError;
use super::super::program::{Element, Product, View};
use super::gpu::{Gpu, Memory};

/// Memory that ways of splitting the sums may use.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Ways that are measured for each shape.
const MOST_WAYS: usize = 16;
/// Runs of each, the first of which is not counted.
const RUNS: usize = 6;

/// `CUBLAS_OP_T`, which the bindings have for cuBLAS alone.
const TRANSPOSED: i32 = 1;

/// What makes a product what it is, whatever its numbers are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    strides: [usize; 4],
    /// How far addresses are multiples of 16 bytes.
    alignments: [u32; 4],
    factors: Element,
    out: Element,
    bias: bool,
    gelu: bool,
    addend: bool,
}

/// Where a product's matrices are.
struct Addresses {
    x: u64,
    weight: u64,
    bias: u64,
    addend: u64,
    out: u64,
}

pub struct Blas {
    gpu: Arc<Gpu>,
    handle: sys::cublasLtHandle_t,
    workspace: Memory,
    plans: HashMap<Shape, Plan>,
}

// SAFETY: the library's handle may be used from any thread, by one at a time.
unsafe impl Send for Blas {}

/// Descriptions of a product's matrices, and the way to compute it.
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    addend: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    way: Option<sys::cublasLtMatmulAlgo_t>,
    has_addend: bool,
}

fn failed(what: &str) -> impl Fn(result::CublasError) -> CudaError {
    move |error| CudaError::call(what, error)
}

impl Blas {
    /// cuBLASLt must be loaded.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        let workspace = gpu.allocate("cuBLASLt", WORKSPACE_BYTES)?;
        let handle = result::create_handle().map_err(failed("opening cuBLASLt"))?;
        Ok(Self { gpu: gpu.clone(), handle, workspace, plans: HashMap::new() })
    }

    pub fn version(&self) -> usize {
        // SAFETY: a number.
        unsafe { sys::cublasLtGetVersion() }
    }

    /// Finds the fastest way for a product, if that is not known; writes into its result.
    pub fn plan(
        &mut self,
        node: &str,
        product: &Product,
        address: &impl Fn(&View) -> u64,
    ) -> Result<(), CudaError> {
        let addresses = Addresses::of(product, address);
        let shape = Shape::of(product, &addresses);
        if self.plans.contains_key(&shape) {
            return Ok(());
        }
        let mut plan = Plan::new(&shape)?;
        let ways = self.ways(&plan, &shape)?;
        let mut best: Option<(Duration, sys::cublasLtMatmulAlgo_t)> = None;
        let mut refused = "it knows none".to_owned();
        for way in ways {
            plan.way = Some(way);
            match self.measure(&plan, &addresses) {
                Ok(time) if best.is_none_or(|(known, _)| time < known) => best = Some((time, way)),
                Ok(_) => {}
                Err(error) => refused = error.to_string(),
            }
        }
        let Some((_, way)) = best else {
            return Err(CudaError::Product { node: node.into(), message: refused });
        };
        plan.way = Some(way);
        self.plans.insert(shape, plan);
        Ok(())
    }

    fn measure(&self, plan: &Plan, addresses: &Addresses) -> Result<Duration, CudaError> {
        self.start_plan(plan, addresses)?;
        self.gpu.wait("measuring a product")?;
        self.gpu.time(|| (1..RUNS).try_for_each(|_| self.start_plan(plan, addresses)))
    }

    /// What the library thinks is good for this shape, the best first.
    fn ways(&self, plan: &Plan, shape: &Shape) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CudaError> {
        let preference = result::create_matmul_pref().map_err(failed("asking cuBLASLt"))?;
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        // SAFETY: descriptions that live; attributes are of the types that they have; the list has room for as many as are asked
        // for, and as many are taken as were written.
        unsafe {
            let listed = (|| {
                let set = |attribute, value: *const c_void, size| {
                    result::set_matmul_pref_attribute(preference, attribute, value, size)
                };
                let bytes = WORKSPACE_BYTES;
                set(
                    Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                    (&raw const bytes).cast(),
                    size_of::<usize>(),
                )?;
                let [x, weight, addend, out] = shape.alignments;
                for (attribute, alignment) in [
                    (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, weight),
                    (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x),
                    (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, addend),
                    (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
                ] {
                    set(attribute, (&raw const alignment).cast(), size_of::<u32>())?;
                }
                let mut found: Vec<sys::cublasLtMatmulHeuristicResult_t> = Vec::with_capacity(MOST_WAYS);
                let mut count = 0;
                sys::cublasLtMatmulAlgoGetHeuristic(
                    self.handle,
                    plan.operation,
                    plan.weight,
                    plan.x,
                    plan.addend,
                    plan.out,
                    preference,
                    MOST_WAYS as i32,
                    found.as_mut_ptr(),
                    &raw mut count,
                )
                .result()?;
                found.set_len((count.max(0) as usize).min(MOST_WAYS));
                Ok(found)
            })();
            let _ = result::destroy_matmul_pref(preference);
            let found: Vec<sys::cublasLtMatmulHeuristicResult_t> = match listed {
                Ok(found) => found,
                // Said by whoever finds the list empty, with the node's name.
                Err(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => Vec::new(),
                Err(error) => return Err(failed("asking cuBLASLt")(error)),
            };
            let good = |way: &&sys::cublasLtMatmulHeuristicResult_t| {
                way.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS
            };
            Ok(found.iter().filter(good).map(|way| way.algo).collect())
        }
    }

    /// Starts a product that was planned.
    pub fn start(
        &self,
        node: &str,
        product: &Product,
        address: &impl Fn(&View) -> u64,
    ) -> Result<(), CudaError> {
        let addresses = Addresses::of(product, address);
        let plan = self.plans.get(&Shape::of(product, &addresses));
        let plan =
            plan.ok_or_else(|| CudaError::Product { node: node.into(), message: "not planned".into() })?;
        self.start_plan(plan, &addresses)
    }

    fn start_plan(&self, plan: &Plan, addresses: &Addresses) -> Result<(), CudaError> {
        let (one, zero) = (1.0f32, 0.0f32);
        let beta = if plan.has_addend { one } else { zero };
        let way = plan.way.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let at = |address: u64| address as *const c_void;
        // SAFETY: addresses of matrices on this GPU that are as the plan describes them; the bias' address is read when the product
        // is started, so it is set for each.
        unsafe {
            if addresses.bias != 0 {
                use sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER as BIAS;
                let bias = addresses.bias;
                result::set_matmul_desc_attribute(
                    plan.operation,
                    BIAS,
                    (&raw const bias).cast(),
                    size_of::<u64>(),
                )
                .map_err(failed("starting a product"))?;
            }
            let addend = if plan.has_addend { addresses.addend } else { addresses.out };
            sys::cublasLtMatmul(
                self.handle,
                plan.operation,
                (&raw const one).cast(),
                at(addresses.weight),
                plan.weight,
                at(addresses.x),
                plan.x,
                (&raw const beta).cast(),
                at(addend),
                plan.addend,
                addresses.out as *mut c_void,
                plan.out,
                way,
                self.workspace.address as *mut c_void,
                WORKSPACE_BYTES,
                self.gpu.runs.0.cast(),
            )
            .result()
            .map_err(failed("starting a product"))
        }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let _ = self.gpu.make_current();
        self.plans.clear();
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Addresses {
    fn of(product: &Product, address: &impl Fn(&View) -> u64) -> Self {
        let optional = |view: &Option<View>| view.as_ref().map_or(0, address);
        Self {
            x: address(&product.x),
            weight: address(&product.weight),
            bias: optional(&product.bias),
            addend: optional(&product.addend),
            out: address(&product.out),
        }
    }
}

impl Shape {
    fn of(product: &Product, addresses: &Addresses) -> Self {
        let Product { x, weight, bias, gelu, addend, out } = product;
        let addend_stride = addend.map_or(out.stride, |addend| addend.stride);
        let alignment = |address: u64| 1u32 << address.trailing_zeros().min(8);
        let addend_address = if addend.is_some() { addresses.addend } else { addresses.out };
        Self {
            m: x.rows,
            n: weight.rows,
            k: x.columns,
            strides: [x.stride, weight.stride, addend_stride, out.stride],
            alignments: [addresses.x, addresses.weight, addend_address, addresses.out].map(alignment),
            factors: x.element,
            out: out.element,
            bias: bias.is_some(),
            gelu: *gelu,
            addend: addend.is_some(),
        }
    }

    fn epilogue(&self) -> sys::cublasLtEpilogue_t {
        use sys::cublasLtEpilogue_t as Epilogue;
        match (self.bias, self.gelu) {
            (false, false) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            (true, false) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            (false, true) => Epilogue::CUBLASLT_EPILOGUE_GELU,
            (true, true) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        }
    }
}

fn type_of(element: Element) -> sys::cudaDataType {
    match element {
        Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        Element::F32 | Element::I32 | Element::U8 => sys::cudaDataType::CUDA_R_32F,
    }
}

impl Plan {
    fn new(shape: &Shape) -> Result<Self, CudaError> {
        let failed = failed("describing a product to cuBLASLt");
        let layout = |element, rows: usize, columns: usize, stride: usize| {
            result::create_matrix_layout(type_of(element), rows as u64, columns as u64, stride as i64)
        };
        let [x, weight, addend, out] = shape.strides;
        // Factors of f32 are multiplied as they are: no TF32.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation =
            result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F).map_err(&failed)?;
        let null = std::ptr::null_mut;
        let mut plan = Self {
            operation,
            weight: null(),
            x: null(),
            addend: null(),
            out: null(),
            way: None,
            has_addend: shape.addend,
        };
        plan.weight = layout(shape.factors, shape.k, shape.n, weight).map_err(&failed)?;
        plan.x = layout(shape.factors, shape.k, shape.m, x).map_err(&failed)?;
        plan.addend = layout(shape.out, shape.n, shape.m, addend).map_err(&failed)?;
        plan.out = layout(shape.out, shape.n, shape.m, out).map_err(&failed)?;
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let (transposed, epilogue) = (TRANSPOSED, shape.epilogue());
        // SAFETY: a description that was just made; attributes are of the types that they have.
        unsafe {
            let set = |attribute, value: *const c_void, size| {
                result::set_matmul_desc_attribute(operation, attribute, value, size).map_err(&failed)
            };
            set(
                Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of_val(&transposed),
            )?;
            set(
                Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                (&raw const epilogue).cast(),
                size_of_val(&epilogue),
            )?;
        }
        Ok(plan)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: descriptions made in `new`, destroyed once.
        unsafe {
            let _ = result::destroy_matmul_desc(self.operation);
            for layout in [self.weight, self.x, self.addend, self.out] {
                if !layout.is_null() {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::program::BufferId;

    #[test]
    fn products_of_other_addresses_share_a_plan_if_these_are_as_round() {
        let view = |rows, columns| View {
            buffer: BufferId(0),
            element: Element::Bf16,
            offset: 0,
            rows,
            columns,
            stride: columns,
        };
        let product = Product {
            x: view(51, 1024),
            weight: view(2560, 1024),
            bias: None,
            gelu: false,
            addend: None,
            out: view(51, 2560),
        };
        let of = |base: u64| {
            let addresses = Addresses::of(&product, &|view: &View| base + view.columns as u64 * 4096);
            Shape::of(&product, &addresses)
        };
        assert_eq!(of(0x1000_0000), of(0x2000_0000));
        assert_ne!(of(0x1000_0000), of(0x1000_0002));
        assert_eq!(of(0x1000_0000).epilogue(), sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT);
    }
}
