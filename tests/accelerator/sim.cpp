// An accelerator that is none: its memory is the host's and every operator runs on the CPU, but, as
// on a real one, tensors of different devices do not meet, random numbers come from a generator of
// its own, and there are two of it. PyTorch's PrivateUse1 backend carries it.

#include <array>
#include <atomic>
#include <mutex>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/op_registration/adaption.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

namespace at::autocast {
TORCH_API ScalarType get_autocast_dtype(c10::DeviceType device_type);  // its header includes all
}

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::Stream;

constexpr DeviceIndex kDevices = 2;
constexpr auto kType = c10::DeviceType::PrivateUse1;
const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

thread_local DeviceIndex current = 0;
std::atomic<int64_t> waits{0};

// Memory and devices.

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    return {data, data, &c10::free_cpu, Device(kType, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
Memory memory;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  Device exchangeDevice(Device device) const override {
    Device before(kType, current);
    setDevice(device);
    return before;
  }
  Device getDevice() const override { return Device(kType, current); }
  void setDevice(Device device) const override {
    TORCH_CHECK(device.index() < kDevices, "sim has ", int(kDevices), " devices, asked for ", device);
    if (device.has_index()) current = device.index();
  }
  void uncheckedSetDevice(Device device) const noexcept override { current = device.index(); }
  Stream getStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream getDefaultStream(Device device) const override { return getStream(device); }
  Stream exchangeStream(Stream stream) const override { return getStream(stream.device()); }
  DeviceIndex deviceCount() const noexcept override { return kDevices; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override { ++waits; }
  void synchronizeDevice(const DeviceIndex) const override { ++waits; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// Random numbers: a generator for each device. Its numbers are drawn by lending its state to the
// CPU's default generator for the time of one operator.

struct Generator final : at::CPUGeneratorImpl {
  explicit Generator(DeviceIndex index) {
    device_ = Device(kType, index);
    key_set_ = kKeys;
  }
};

const at::Generator& default_generator(DeviceIndex index) {
  static const std::array<at::Generator, kDevices> all = {
      at::make_generator<Generator>(DeviceIndex(0)), at::make_generator<Generator>(DeviceIndex(1))};
  return all.at(index < 0 ? current : index);
}

struct Lent {
  explicit Lent(at::Generator generator)
      : lock(mutex), lender(std::move(generator)), cpu(at::detail::getDefaultCPUGenerator()),
        before(cpu.get_state()) {
    cpu.set_state(lender.get_state());
  }
  ~Lent() {
    lender.set_state(cpu.get_state());
    cpu.set_state(before);
  }
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock;
  at::Generator lender, cpu;
  Tensor before;
};
std::mutex Lent::mutex;

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return kDevices; }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex index) const override { Guard().setDevice({kType, index}); }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    return Guard().exchangeDevice({kType, index}).index();
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override {
    return index < 0 ? current : exchangeDevice(index);
  }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(DeviceIndex index) const override {
    return at::make_generator<Generator>(index < 0 ? current : index);
  }
};
Hooks hooks;

// Operators that are about storage; all others fall back.

Device placed(std::optional<Device> device) {
  const Device asked = c10::device_or_default(device);
  return Device(kType, asked.has_index() ? asked.index() : current);
}

Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<Device> device, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  const c10::DeviceGuard guard(placed(device));
  return at::detail::empty_generic(size, &memory, kKeys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>, std::optional<Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(placed(device));
  return at::detail::empty_strided_generic(
      size, stride, &memory, kKeys, c10::dtype_or_default(dtype));
}

Tensor on_host(const Tensor& t) {
  if (t.is_cpu()) return t;
  // It holds t: of a conjugate the dispatcher hands over a copy that nobody else keeps.
  Tensor alias = at::from_blob(
      t.data_ptr(), t.sizes(), t.strides(), [t](void*) {}, t.options().device(at::kCPU));
  alias._set_conj(t.is_conj());
  alias._set_neg(t.is_neg());
  return alias;
}

Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
  const Tensor from = on_host(self);
  Tensor alias = on_host(to);
  const bool there = from.dtype() == alias.dtype() && from.data_ptr() == alias.data_ptr() &&
      from.strides() == alias.strides() && from.sizes() == alias.sizes();
  if (!there) at::native::copy_(alias, from, false);
  return to;
}

// What the fallback hands to the CPU: the memory itself, unless an operator may have to enlarge it.
thread_local bool enlarges = false;

std::vector<Tensor> to_cpu(at::TensorList tensors) {
  std::vector<Tensor> out;
  for (const Tensor& t : tensors) out.push_back(enlarges && !t.is_cpu() ? t.cpu() : on_host(t));
  return out;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  const c10::DeviceGuard guard(to.device());
  at::native::resize_(to, self.sizes(), std::nullopt);
  return copy_from(self, to, false);
}

c10::Scalar local_scalar_dense(const Tensor& self) { return on_host(self).item(); }

Tensor view(const Tensor& self, c10::IntArrayRef size) { return at::native::view(self, size); }

const Tensor& resize_(
    const Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(self.device());
  return at::native::resize_(self, size, format);
}

Tensor as_strided(
    const Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride,
    std::optional<int64_t> offset) {
  return at::cpu::as_strided(self, size, stride, offset);
}

Tensor& set_storage_at(
    Tensor& self, at::Storage storage, int64_t offset, c10::IntArrayRef size,
    c10::IntArrayRef stride) {
  return at::cpu::set_(self, std::move(storage), offset, size, stride);
}

Tensor& set_storage(Tensor& self, at::Storage storage) {
  return at::native::set_(self, std::move(storage));
}

// Convolutions of backends that have none of their own are not left to the fallback.

void require(bool fine, const char* where, Device one, Device other) {
  TORCH_CHECK(
      fine, "Expected all tensors to be on the same device, but found at least two devices, ", one,
      " and ", other, "! (when checking arguments of ", where, ")");
}

Tensor convolution(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
    bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  require(x.device() == weight.device(), "convolution", x.device(), weight.device());
  std::optional<Tensor> offset;
  if (bias.has_value() && bias->defined()) {
    require(x.device() == bias->device(), "convolution", x.device(), bias->device());
    offset = on_host(*bias);
  }
  return at::convolution_symint(
             on_host(x), on_host(weight), offset, stride, padding, dilation, transposed,
             output_padding, groups)
      .to(x.device());
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
    c10::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> mask) {
  const c10::SymInt outputs = transposed ? weight.sym_size(1) * groups : weight.sym_size(0);
  auto [dx, dweight, dbias] = at::convolution_backward_symint(
      on_host(grad), on_host(x), on_host(weight), c10::SymIntArrayRef(&outputs, 1), stride,
      padding, dilation, transposed, output_padding, groups, mask);
  const auto home = [&](const Tensor& t) { return t.defined() ? t.to(x.device()) : t; };
  return {home(dx), home(dweight), home(dbias)};
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", as_strided);
  m.impl("resize_", resize_);
  m.impl("view", view);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("_to_cpu", to_cpu);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar_dense);
  m.impl("set_.source_Tensor", at::native::set_tensor_);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_storage_at);
}

// Copying resolves these two itself; resolved before, they would be copied for ever.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
  m.impl("_copy_from_and_resize", torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
  m.impl("_copy_from_and_resize", torch::CppFunction::makeFallthrough());
}

// Every other operator, on the CPU, once it is sure that CUDA would take these tensors too.

void require_together(const c10::OperatorHandle& op, c10::ArrayRef<c10::IValue> arguments) {
  std::optional<Device> home;
  const char* where = op.schema().name().c_str();
  const auto check = [&](const Tensor& t) {
    // Numbers travel as CPU tensors without dimensions and may meet everybody.
    if (!t.defined() || (t.is_cpu() && t.dim() == 0)) return;
    if (!home) home = t.device();
    require(t.device() == *home, where, *home, t.device());
  };
  for (const auto& argument : arguments) {
    if (argument.isTensor()) {
      check(argument.toTensor());
    } else if (argument.isTensorList()) {
      for (const Tensor& t : argument.toTensorVector()) check(t);
    } else if (argument.isOptionalTensorList()) {
      // Indices in brackets: CUDA takes them from the CPU too.
      for (const auto& t : argument.toOptionalTensorVector()) {
        if (t.has_value() && t->defined() && !t->is_cpu()) check(*t);
      }
    }
  }
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t count = schema.arguments().size();
  const auto arguments = torch::jit::last(stack, count);
  require_together(op, arguments);

  enlarges = false;
  std::optional<at::Generator> given;
  Device device(kType, current);
  bool located = false;
  for (size_t i = 0; i < count; ++i) {
    auto& argument = (*stack)[stack->size() - count + i];
    const auto* alias = schema.arguments()[i].alias_info();
    if (alias && alias->isWrite() && argument.isTensor() && argument.toTensor().defined()) {
      enlarges |= argument.toTensor().numel() == 0;
    }
    if (argument.isGenerator()) {
      given = argument.toGenerator();
      TORCH_CHECK(
          given->device().type() == kType, "Expected a 'sim' device type for generator but found '",
          given->device().type(), "'");
      argument = c10::IValue();
    } else if (!located && argument.isTensor() && argument.toTensor().defined() &&
               !argument.toTensor().is_cpu()) {
      device = argument.toTensor().device();
      located = true;
    } else if (argument.isDevice() && argument.toDevice().type() == kType) {
      device = placed(argument.toDevice());
    }
  }
  if (given || op.hasTag(at::Tag::nondeterministic_seeded)) {
    const Lent lent(given ? *given : default_generator(device.index()));
    at::native::cpu_fallback(op, stack);
  } else {
    at::native::cpu_fallback(op, stack);
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

// Under autocast products and convolutions round, as on CUDA.

void lowered(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard once(c10::DispatchKey::AutocastPrivateUse1);
  const size_t count = op.schema().arguments().size();
  for (size_t i = stack->size() - count; i < stack->size(); ++i) {
    if (!(*stack)[i].isTensor()) continue;
    const Tensor t = (*stack)[i].toTensor();
    if (t.defined() && t.scalar_type() == at::kFloat && !t.is_cpu()) {
      (*stack)[i] = t.to(at::autocast::get_autocast_dtype(kType));
    }
  }
  op.callBoxed(stack);
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  for (const char* name : {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "conv1d"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&lowered>());
  }
}

// What the Python module of the device needs.

TORCH_LIBRARY(sim, m) {
  m.def("current_device() -> int", [] { return int64_t(current); });
  m.def("set_device(int index) -> ()", [](int64_t index) {
    Guard().setDevice({kType, DeviceIndex(index)});
  });
  m.def("waits() -> int", [] { return waits.load(); });
  m.def("get_state(int index) -> Tensor", [](int64_t index) {
    return default_generator(DeviceIndex(index)).get_state();
  });
  m.def("set_state(int index, Tensor state) -> ()", [](int64_t index, const Tensor& state) {
    at::Generator generator = default_generator(DeviceIndex(index));
    generator.set_state(state);
  });
  m.def("seed(int index, int value) -> ()", [](int64_t index, int64_t value) {
    at::Generator generator = default_generator(DeviceIndex(index));
    generator.set_current_seed(uint64_t(value));
  });
}

[[maybe_unused]] const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(kType, &memory);
  return true;
}();

}  // namespace
