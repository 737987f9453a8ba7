//! libtorch operators that tch does not expose, called by name.
//!
//! libtorch itself exports C functions for it (`torch/csrc/stable/c/shim.h`): arguments and results are words of 64 bits
//! on one stack, and a tch tensor pointer is the handle that they take.

use std::ffi::{CStr, c_char, c_void};

use tch::Tensor;

use super::error::TrainerError;

unsafe extern "C" {
    fn torch_call_dispatcher(op: *const c_char, overload: *const c_char, stack: *mut u64, version: u64) -> i32;
    fn torch_new_list_reserve_size(size: usize, list: *mut *mut c_void) -> i32;
    fn torch_list_push_back(list: *mut c_void, element: u64) -> i32;
    fn torch_delete_list(list: *mut c_void) -> i32;
    /// `device_cache.cpp`.
    fn ds_empty_device_cache() -> i32;
}

/// Gives the memory that the allocator of the GPU holds for later back to it; nothing on a processor, whose allocator
/// holds none.
///
/// # Errors
/// libtorch refused.
pub(super) fn empty_device_cache() -> Result<(), TrainerError> {
    // SAFETY: it takes nothing, and catches what is thrown.
    match unsafe { ds_empty_device_cache() } {
        0 => Ok(()),
        _ => Err(TrainerError::Torch {
            operation: "giving memory back to the device",
            message: "the allocator refused".to_owned(),
        }),
    }
}

/// The libtorch version whose conventions the words follow: 2.11.
const ABI_VERSION: u64 = (2 << 56) | (11 << 48);

/// The arguments of one operator call, in the order of its schema. What is in them belongs to the callee once the call is
/// made, and is freed here if it never is.
pub(super) struct Call {
    operation: &'static str,
    words: Vec<u64>,
    lists: Vec<*mut c_void>,
    tensors: Vec<Tensor>,
}

/// The results of a call, as the operator's schema has them. Tensors not taken leak, so take them all.
pub(super) struct Results {
    words: std::vec::IntoIter<u64>,
}

impl Call {
    /// A call that errors name `operation`.
    pub fn new(operation: &'static str) -> Call {
        Call { operation, words: Vec::new(), lists: Vec::new(), tensors: Vec::new() }
    }

    /// A number as its bits; 0 is also false and an absent optional.
    pub fn word(&mut self, word: u64) {
        self.words.push(word);
    }

    /// A tensor; the callee shares its storage.
    pub fn tensor(&mut self, tensor: &Tensor) {
        let owned = tensor.shallow_clone();
        self.words.push(owned.as_ptr() as u64);
        self.tensors.push(owned);
    }

    /// A list of tensors.
    pub fn tensors<'a>(&mut self, tensors: impl Iterator<Item = &'a Tensor>) -> Result<(), TrainerError> {
        let mut list = std::ptr::null_mut();
        // SAFETY: `list` is a valid place for the handle.
        self.check(unsafe { torch_new_list_reserve_size(tensors.size_hint().0, &mut list) })?;
        self.lists.push(list);
        self.words.push(list as u64);
        for tensor in tensors {
            let owned = tensor.shallow_clone();
            let handle = owned.as_ptr() as u64;
            // The element is an owned handle: the list now answers for it.
            std::mem::forget(owned);
            // SAFETY: `list` was made above and is not yet given away; a tch tensor pointer is a libtorch handle.
            self.check(unsafe { torch_list_push_back(list, handle) })?;
        }
        Ok(())
    }

    /// Calls the operator, which has `results` results.
    ///
    /// # Errors
    /// libtorch refused; it has written the reason to standard error.
    pub fn run(mut self, op: &'static CStr, overload: &'static CStr, results: usize) -> Result<Results, TrainerError> {
        self.lists.clear();
        self.tensors.drain(..).for_each(std::mem::forget);
        // Results replace the arguments and may be more.
        self.words.resize(self.words.len().max(results), 0);
        // SAFETY: names end in NUL; the words follow the operator's schema; lists and tensors in them are owned.
        let status =
            unsafe { torch_call_dispatcher(op.as_ptr(), overload.as_ptr(), self.words.as_mut_ptr(), ABI_VERSION) };
        self.check(status)?;
        let mut words = std::mem::take(&mut self.words);
        words.truncate(results);
        Ok(Results { words: words.into_iter() })
    }

    fn check(&self, status: i32) -> Result<(), TrainerError> {
        match status {
            0 => Ok(()),
            _ => Err(TrainerError::Torch {
                operation: self.operation,
                message: "the call by name failed; libtorch has written the reason to standard error".into(),
            }),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        for &list in &self.lists {
            // SAFETY: the list was made by this call and never given away.
            let _ = unsafe { torch_delete_list(list) };
        }
    }
}

impl Results {
    /// The next result, which is a number.
    pub fn word(&mut self) -> u64 {
        self.words.next().unwrap_or_default()
    }

    /// The next result, which is a tensor; maybe an undefined one.
    ///
    /// # Safety
    /// The operator's schema has a tensor in this place.
    pub unsafe fn tensor(&mut self) -> Tensor {
        match self.words.next() {
            // SAFETY: an owned handle, which is a pointer to a tensor on the heap as tch keeps it.
            Some(handle) if handle != 0 => unsafe { Tensor::from_ptr(handle as *mut _) },
            _ => Tensor::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn tensors_come_back_as_the_binding_gives_them() {
        let [q, k, v] = [4, 2, 2].map(|heads| Tensor::randn([1, heads, 7, 16], (Kind::Float, Device::Cpu)));
        let mut call = Call::new("a test");
        for x in [&q, &k, &v] {
            call.tensor(x);
        }
        call.word(0f64.to_bits());
        call.word(1);
        // No mask, no scale.
        call.word(0);
        call.word(0);
        let mut found = call.run(c"aten::_scaled_dot_product_flash_attention_for_cpu", c"", 2).unwrap();
        let none = None::<Tensor>;
        let expected = Tensor::internal_scaled_dot_product_flash_attention_for_cpu(&q, &k, &v, 0.0, true, none, None);
        // SAFETY: both results are tensors.
        unsafe {
            assert_eq!(found.tensor(), expected.0);
            assert_eq!(found.tensor(), expected.1);
            assert!(!found.tensor().defined(), "there are two");
        }
        assert_eq!(q.size(), [1, 4, 7, 16], "arguments outlive the call");
    }

    #[test]
    fn numbers_come_back_as_words() {
        let mut call = Call::new("a test");
        call.tensor(&Tensor::zeros([3, 5], (Kind::Float, Device::Cpu)));
        call.word(1);
        assert_eq!(call.run(c"aten::sym_size", c"int", 1).unwrap().word(), 5);
    }

    #[test]
    fn an_unknown_operator_is_an_error_that_says_what_was_tried() {
        let mut call = Call::new("a test");
        call.tensor(&Tensor::zeros([3], (Kind::Float, Device::Cpu)));
        let error = call.run(c"aten::no_such_operator", c"", 1).map(drop).unwrap_err();
        assert!(matches!(error, TrainerError::Torch { operation: "a test", .. }));
    }
}
