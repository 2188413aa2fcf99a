//! Models by name, from the command line to an answer, against a hub on loopback and stores laid out like the real ones.

// The hub of the client's own tests; not all of it is needed here.
#[allow(dead_code)]
#[path = "../../hub/tests/hub/server.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ocelli_convert::checkpoint::SourceType;
use ocelli_convert::progress::Silent;
use ocelli_convert::synth::{Preset, SynthOptions, write_checkpoint};
use ocelli_convert::{ConvertOptions, convert};
use serde_json::Value;
use server::{FakeHub, Reply};
use tempfile::TempDir;

const REPO: &str = "openbmb/MiniCPM-V-4-gguf";

/// A home folder, a hub, and a small model that can be run.
struct World {
    home: TempDir,
    hub: FakeHub,
    text: PathBuf,
    vision: PathBuf,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let made = home.path().join("made");
        let options =
            SynthOptions { preset: Preset::Mini, seed: 7, dtype: SourceType::Bf16, shards: None, overwrite: false };
        write_checkpoint(&made.join("checkpoint"), &options, &Silent).unwrap();
        let options = ConvertOptions { outdir: made.clone(), ..ConvertOptions::default() };
        let files = convert(&made.join("checkpoint"), &options, &Silent).unwrap().files;
        let [text, vision] = [0, 1].map(|i| files[i].path.clone());
        Self { home, hub: FakeHub::start(), text, vision }
    }

    /// The model in a repository, as OpenBMB names the files.
    fn publish(&self) {
        self.hub.add(REPO, "ggml-model-Q4_K_M.gguf", std::fs::read(&self.text).unwrap());
        self.hub.add(REPO, "ggml-model-Q8_0.gguf", server::noise(1, 3_000));
        self.hub.add(REPO, "mmproj-model-f16.gguf", std::fs::read(&self.vision).unwrap());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocelli"));
        for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "OCELLI_CACHE", "OCELLI_MODEL"] {
            command.env_remove(name);
        }
        for name in ["OLLAMA_MODELS", "LLAMA_CACHE", "LOCALAPPDATA", "XDG_CACHE_HOME", "SSL_CERT_FILE", "OCELLI_ISA"] {
            command.env_remove(name);
        }
        command.args(args).env("HOME", self.home.path()).env("HF_HOME", self.home.path().join("hf"));
        command.env("HF_ENDPOINT", &self.hub.endpoint).stdin(Stdio::null()).current_dir(self.home.path());
        command
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", told(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Fails with one line that has all `words`.
    #[track_caller]
    fn refused(&self, args: &[&str], words: &[&str]) {
        let out = self.command(args).output().unwrap();
        assert!(!out.status.success() && out.stdout.is_empty(), "{args:?}: {out:?}");
        let told = told(&out);
        let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("ocelli: error: ")).collect();
        assert!(errors.len() == 1 && words.iter().all(|word| errors[0].contains(word)), "{args:?} {words:?}: {told}");
    }
}

fn told(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

const ANSWER: [&str; 10] = ["-p", "Hello", "-n", "4", "-c", "256", "-t", "1", "--temp", "0"];

#[test]
fn a_name_is_fetched_once_and_answers_as_its_file_does() {
    let world = World::new();
    world.publish();
    let text = world.text.to_str().unwrap();
    let plain = world.done(&[&["run", "-m", text], &ANSWER[..]].concat());
    let out = world.command(&[&["run", "-m", "minicpm-v-4"], &ANSWER[..]].concat()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), plain, "{}", told(&out));
    assert!(told(&out).contains("fetching ggml-model-Q4_K_M.gguf and mmproj-model-f16.gguf of"), "{}", told(&out));
    let asked = world.hub.log().len();
    for spelled in [
        vec!["-m", "minicpm-v-4"],
        vec!["-m", "openbmb/MiniCPM-V-4-gguf:q4_k_m"],
        vec!["-m", "hf://openbmb/MiniCPM-V-4-gguf"],
        vec!["-hf", REPO],
        vec!["-hf", REPO, "-hff", "ggml-model-Q4_K_M.gguf"],
    ] {
        assert_eq!(world.done(&[&["run"], &spelled[..], &ANSWER[..]].concat()), plain, "{spelled:?}");
    }
    let by_variable =
        world.command(&[&["run"], &ANSWER[..]].concat()).env("OCELLI_MODEL", "minicpm-v-4").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&by_variable.stdout), plain, "{}", told(&by_variable));
    assert_eq!(world.hub.log().len(), asked, "what is here needs no network");
    world.refused(&["run", "-hf", REPO, "-hff", "none.gguf", "-p", "x"], &["none.gguf", "ggml-model-Q8_0.gguf"]);
    world.refused(&["run", "-hf", "x", "-p", "x"], &["USER/REPO"]);
    // The vision file comes with the name, and can be had without the text file.
    let image = world.home.path().join("x.bmp");
    std::fs::write(&image, bmp()).unwrap();
    let image = image.to_str().unwrap();
    let asked = ["--image", image, "-p", "Hello", "-n", "4", "-t", "1", "--temp", "0", "-c", "1024"];
    let by_path = ["run", "-m", text, "--mmproj", world.vision.to_str().unwrap()];
    let seen = world.done(&[&by_path[..], &asked[..]].concat());
    assert_eq!(world.done(&[&["run", "-m", "minicpm-v-4"], &asked[..]].concat()), seen);
    assert_eq!(world.done(&[&["run", "-m", text, "--mmproj", REPO], &asked[..]].concat()), seen);
}

/// An 8×8 picture, grey.
fn bmp() -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    bytes.extend([54 + 192u32, 0, 54, 40, 8, 8].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([1u16, 24].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend([0; 24]);
    bytes.extend([128; 192]);
    bytes
}

#[test]
fn pull_list_show_and_rm() {
    let world = World::new();
    world.publish();
    assert!(world.done(&["list"]).contains("ocelli pull minicpm-v-4"));
    world.refused(&["show", "minicpm-v-4"], &["ocelli pull minicpm-v-4"]);
    let pulled = world.done(&["pull", "minicpm-v-4"]);
    let paths: Vec<&Path> = pulled.lines().map(Path::new).collect();
    assert_eq!(paths.len(), 2);
    assert_eq!(std::fs::read(paths[0]).unwrap(), std::fs::read(&world.text).unwrap());
    assert_eq!(std::fs::read(paths[1]).unwrap(), std::fs::read(&world.vision).unwrap());
    world.done(&["pull", "openbmb/MiniCPM-V-4-gguf:Q8_0"]);
    let rows: Value = serde_json::from_str(&world.done(&["list", "--json"])).unwrap();
    let row = |name: &str| rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    let good = row("openbmb/MiniCPM-V-4-gguf:Q4_K_M");
    assert_eq!(
        (&good["runs"], &good["store"], &good["quant"]),
        (&true.into(), &"Hugging Face".into(), &"Q4_K_M".into()),
        "{good}"
    );
    assert_eq!(good["path"], paths[0].to_str().unwrap());
    assert_eq!(good["vision"], paths[1].to_str().unwrap());
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert_eq!(good["bytes"], size(paths[0]) + size(paths[1]));
    let noise = row("openbmb/MiniCPM-V-4-gguf:Q8_0");
    assert_eq!(noise["runs"], false);
    assert!(noise["why"].as_str().unwrap().contains("not a GGUF file"), "{noise}");
    let table = world.done(&["list"]);
    assert!(table.contains("RUNS") && table.contains("no: not a GGUF file"), "{table}");
    assert_eq!(world.done(&["show", "minicpm-v-4"]), world.done(&["inspect", paths[0].to_str().unwrap()]));
    assert_eq!(world.done(&["show", "minicpm-v-4", "--key", "general.architecture"]), "llama\n");
    assert_eq!(
        world.done(&["show", "minicpm-v-4", "--key", "llama.block_count", "--json"]).trim().parse::<u32>().unwrap(),
        4
    );
    let template: String =
        serde_json::from_str(&world.done(&["show", "minicpm-v-4", "--key", "tokenizer.chat_template", "--json"]))
            .unwrap();
    assert_eq!(world.done(&["show", "minicpm-v-4", "--template"]), template + "\n");
    let tokens = world.done(&["show", "minicpm-v-4", "--key", "tokenizer.ggml.token_type"]);
    assert!(tokens.lines().count() > 100 && tokens.lines().all(|line| line.parse::<i32>().is_ok()));
    world.refused(&["show", "minicpm-v-4", "--key", "x.block_count"], &["llama.block_count"]);
    assert!(world.done(&["rm", "openbmb/MiniCPM-V-4-gguf:q8_0"]).contains("1 file, 3.0 kB"));
    world.refused(&["rm", "openbmb/MiniCPM-V-4-gguf:Q8_0"], &["Q8_0", "Q4_K_M"]);
    world.done(&["rm", "minicpm-v-4"]);
    assert!(!paths[0].exists());
    world.refused(&["rm", "minicpm-v-4"], &["not in the cache"]);
    let places = world.done(&["list", "--paths"]);
    for word in ["OCELLI_CACHE", "OLLAMA_MODELS", "LM Studio", "llama.cpp", "bundled model", "ocelli rm"] {
        assert!(places.contains(word), "{word}: {places}");
    }
}

#[test]
fn refusals_help() {
    let world = World::new();
    world.publish();
    world.hub.add("u/checkpoint", "model.safetensors", server::noise(5, 2_000));
    world.refused(&["pull", "minicpm-v-4:Q5_K_M"], &["Q5_K_M", "Q4_K_M, Q8_0"]);
    world.refused(&["pull", "u/checkpoint"], &["safetensors", "ocelli convert"]);
    world.refused(&["pull", "u/none"], &["no repository u/none", "HF_TOKEN"]);
    world.refused(&["pull", "no-such"], &["minicpm-v-4", "USER/REPO"]);
    world.refused(&["run", "-m", "no/such", "-p", "x"], &["no/such", "not a file here", "no repository"]);
    world.refused(&["run", "-m", "./no-such.gguf", "-p", "x"], &["no-such.gguf"]);
    world.refused(&["pull", "https://example.com/x.gguf"], &["checksum"]);
    let offline = world.command(&["pull", "minicpm-v-4"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(told(&offline).contains("HF_HUB_OFFLINE"), "{}", told(&offline));
    let nobody = world.command(&["pull", "minicpm-v-4"]).env("HF_ENDPOINT", "http://127.0.0.1:9").output().unwrap();
    assert!(told(&nobody).contains("check the network"), "{}", told(&nobody));
    world.hub.state().token = Some("hf_right".to_owned());
    world.refused(&["pull", "minicpm-v-4"], &["gated", "settings/tokens", "HF_TOKEN"]);
    let wrong = world.command(&["pull", "minicpm-v-4"]).env("HF_TOKEN", "hf_wrong").output().unwrap();
    assert!(told(&wrong).contains("accept its conditions") && !told(&wrong).contains("hf_wrong"), "{}", told(&wrong));
    let right = world.command(&["pull", "minicpm-v-4"]).env("HF_TOKEN", "hf_right").output().unwrap();
    assert!(right.status.success(), "{}", told(&right));
}

#[test]
fn what_cannot_be_run_is_refused_before_it_is_fetched() {
    let world = World::new();
    world.publish();
    world.hub.hook(|request| {
        let info = serde_json::json!({ "sha": server::COMMIT, "gguf": { "architecture": "qwen3" } });
        request.path().contains("/revision/").then(|| Reply::json(&info))
    });
    world.refused(&["pull", "minicpm-v-4"], &["qwen3", "llama", "--any"]);
    assert!(world.hub.log().iter().all(|request| !request.path().contains("/resolve/")));
    world.done(&["pull", "minicpm-v-4", "--any"]);
}

#[test]
fn other_programs_models_are_used_where_they_lie() {
    let world = World::new();
    let plain = world.done(&[&["run", "-m", world.text.to_str().unwrap()], &ANSWER[..]].concat());
    let store = world.home.path().join(".ollama/models");
    let blob = |file: &Path| {
        let digest = server::hex(<sha2::Sha256 as sha2::Digest>::digest(std::fs::read(file).unwrap()));
        let path = store.join("blobs").join(format!("sha256-{digest}"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(file, &path).unwrap();
        (path, format!("sha256:{digest}"))
    };
    let ((text, of_text), (vision, of_vision)) = (blob(&world.text), blob(&world.vision));
    let layer = |kind: &str, digest: &str| serde_json::json!({ "mediaType": format!("application/vnd.ollama.image.{kind}"), "digest": digest });
    let manifest = serde_json::json!({ "layers": [layer("model", &of_text), layer("projector", &of_vision)] });
    let path = store.join("manifests/registry.ollama.ai/library/minicpm-v/latest");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, manifest.to_string()).unwrap();
    let rows: Value = serde_json::from_str(&world.done(&["list", "--json"])).unwrap();
    let row = &rows[0];
    assert_eq!(
        (&row["name"], &row["runs"], &row["quant"]),
        (&"ollama://minicpm-v:latest".into(), &true.into(), &"Q4_K_M".into()),
        "{row}"
    );
    assert_eq!((&row["path"], &row["vision"]), (&text.to_str().unwrap().into(), &vision.to_str().unwrap().into()));
    assert_eq!(world.done(&[&["run", "-m", "ollama://minicpm-v"], &ANSWER[..]].concat()), plain);
    world.refused(&["run", "-m", "ollama://none", "-p", "x"], &["ollama://minicpm-v:latest"]);
    world.refused(&["rm", "ollama://minicpm-v"], &["ollama rm"]);
    assert!(world.hub.log().is_empty());
}
