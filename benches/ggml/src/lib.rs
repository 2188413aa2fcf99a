//! One product of ggml, run in place: `out[t][r] = Σ_k weight[r][k]·x[t][k]`.
//!
//! The weights are given as the file has them. ggml's own choice among its ways to multiply them applies (its tiled one
//! for several tokens), but not the repacking that llama.cpp does when it loads a model into memory.
//!
//! This is a binding, so it has `unsafe` blocks; nothing of Ocelli depends on it.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![warn(missing_docs)]

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;
use ocelli_quant::GgmlType;

/// Why ggml could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgmlError {
    /// A size that does not fit another one.
    #[error("{what}: expected {want} elements, got {got}")]
    Length {
        /// Of what.
        what: &'static str,
        /// Elements needed.
        want: usize,
        /// Elements given.
        got: usize,
    },
    /// A size that its interface cannot take.
    #[error("{0} is too large for ggml")]
    TooLarge(usize),
    /// It refused.
    #[error("ggml could not {0}")]
    Refused(&'static str),
}

/// Memory for the descriptions of tensors and of the graph.
const OVERHEAD: usize = 1 << 20;

/// A product that is ready to be computed any number of times.
pub struct Product {
    context: NonNull<sys::ggml_context>,
    graph: *mut sys::ggml_cgraph,
    pool: NonNull<sys::ggml_threadpool>,
    weight: *mut sys::ggml_tensor,
    out: *mut sys::ggml_tensor,
    plan: sys::ggml_cplan,
    /// What `plan.work_data` points to.
    _work: Vec<u8>,
    rows: usize,
    tokens: usize,
    weight_bytes: usize,
}

impl Product {
    /// A product of `weight`, `rows` rows of `cols` weights stored as `ty`, with the `x` of `tokens` tokens.
    ///
    /// # Errors
    /// When the lengths do not fit, or ggml refuses.
    pub fn new(
        ty: GgmlType,
        weight: &[u8],
        (rows, cols): (usize, usize),
        x: &[f32],
        tokens: usize,
        threads: usize,
    ) -> Result<Self, GgmlError> {
        let row_bytes = ty.row_bytes(cols).map_err(|_| GgmlError::Refused("divide a row into blocks"))?;
        check("weight", rows * row_bytes, weight.len())?;
        check("activations", tokens * cols, x.len())?;
        let (ne_rows, ne_cols, ne_tokens) = (long(rows)?, long(cols)?, long(tokens)?);
        let n_threads = i32::try_from(threads).map_err(|_| GgmlError::TooLarge(threads))?;
        let mem_size = weight.len() + 4 * (x.len() + tokens * rows) + OVERHEAD;
        let params = sys::ggml_init_params { mem_size, mem_buffer: std::ptr::null_mut(), no_alloc: false };
        // SAFETY: plain calls; null is handled. The context owns every tensor and the graph, and lives as long as
        // `Product`. The tensors are written only inside their sizes, which were checked above: ggml's layout of a
        // two-dimensional tensor is `ne[1]` rows of `ne[0]` values without gaps.
        unsafe {
            sys::ggml_cpu_init();
            let context = NonNull::new(sys::ggml_init(params)).ok_or(GgmlError::Refused("take memory"))?;
            let c = context.as_ptr();
            let a = sys::ggml_new_tensor_2d(c, ty.id(), ne_cols, ne_rows);
            let b = sys::ggml_new_tensor_2d(c, GgmlType::F32.id(), ne_cols, ne_tokens);
            let out = sys::ggml_mul_mat(c, a, b);
            let graph = sys::ggml_new_graph(c);
            sys::ggml_build_forward_expand(graph, out);
            let fits = sys::ggml_nbytes(a) == weight.len() && sys::ggml_nbytes(b) == 4 * x.len();
            let mut pool_params = sys::ggml_threadpool_params_default(n_threads);
            let pool = NonNull::new(sys::ggml_threadpool_new(&raw mut pool_params)).filter(|_| fits);
            let Some(pool) = pool else {
                sys::ggml_free(c);
                return Err(GgmlError::Refused("lay the tensors out as we do, or start threads"));
            };
            std::ptr::copy_nonoverlapping(weight.as_ptr(), sys::ggml_get_data(a).cast(), weight.len());
            std::ptr::copy_nonoverlapping(x.as_ptr(), sys::ggml_get_data_f32(b), x.len());
            let mut plan = sys::ggml_graph_plan(graph, n_threads, pool.as_ptr());
            let mut work = vec![0u8; plan.work_size];
            plan.work_data = work.as_mut_ptr();
            Ok(Self {
                context,
                graph,
                pool,
                weight: a,
                out,
                plan,
                _work: work,
                rows,
                tokens,
                weight_bytes: weight.len(),
            })
        }
    }

    /// Puts other weights of the same size in place.
    ///
    /// # Errors
    /// When the size is another one.
    pub fn set_weight(&mut self, weight: &[u8]) -> Result<(), GgmlError> {
        check("weight", self.weight_bytes, weight.len())?;
        // SAFETY: the tensor has exactly that many bytes (checked when it was made), and nothing runs.
        unsafe { std::ptr::copy_nonoverlapping(weight.as_ptr(), sys::ggml_get_data(self.weight).cast(), weight.len()) };
        Ok(())
    }

    /// Computes it.
    ///
    /// # Errors
    /// When ggml does not succeed.
    pub fn run(&mut self) -> Result<(), GgmlError> {
        // SAFETY: graph, plan, its work memory and its threads live as long as `self`.
        let status = unsafe { sys::ggml_graph_compute(self.graph, &raw mut self.plan) };
        if status == sys::GGML_STATUS_SUCCESS { Ok(()) } else { Err(GgmlError::Refused("compute")) }
    }

    /// The result of the last run: tokens × rows.
    #[must_use]
    pub fn out(&self) -> &[f32] {
        // SAFETY: the result is a tensor of `tokens` rows of `rows` floats of this context, and nothing runs.
        unsafe { std::slice::from_raw_parts(sys::ggml_get_data_f32(self.out), self.tokens * self.rows) }
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: both were made by `new`, are used by nothing else, and are freed once.
        unsafe {
            sys::ggml_threadpool_free(self.pool.as_ptr());
            sys::ggml_free(self.context.as_ptr());
        }
    }
}

fn check(what: &'static str, want: usize, got: usize) -> Result<(), GgmlError> {
    if want == got { Ok(()) } else { Err(GgmlError::Length { what, want, got }) }
}

fn long(n: usize) -> Result<i64, GgmlError> {
    i64::try_from(n).map_err(|_| GgmlError::TooLarge(n))
}
