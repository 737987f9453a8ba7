//! Gives every binary and test an rpath to libtorch, so that nobody exports `LD_LIBRARY_PATH`, and compiles the one
//! thing that libtorch offers in C++ only.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=migrations");
    // torch-sys (`links = "tch"`) says where it found libtorch.
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        println!("cargo:rerun-if-changed=src/trainer/device_cache.cpp");
        println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
        // Beside `lib` in the wheel and in the archive alike.
        let include = std::path::Path::new(&lib).with_file_name("include");
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .flag("-w")
            .include(include)
            // Where headers and libraries are in different places.
            .includes(std::env::var_os("LIBTORCH_INCLUDE").map(|dir| std::path::PathBuf::from(dir).join("include")))
            .file("src/trainer/device_cache.cpp")
            .compile("ds_device_cache");
    }
    // The layout of a checkout, relative to target/release and target/release/deps: a moved checkout still runs.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../.venv/libtorch/lib");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../../.venv/libtorch/lib");
}
