// export, import and inspect as a user calls them.
#include <algorithm>

#include "models/safetensors.h"
#include "tests/experiments/command_fixture.h"

namespace statelab::testing {
namespace {

constexpr const char* kOneRun = R"(name: one
base:
  task: { name: parity }
  model: { d_model: 8, headdim: 8, d_state: 4, chunk_size: 8 }
  train: { batch: 4, curriculum: [ { steps: 6, length: [3, 8] } ], optimizer.lr: 0.001 }
  eval: { lengths: [8, 16], samples: 32, every: 3 }
)";

class InterchangeCommand : public Command {
 protected:
  /// Trains the sweep of one run with these settings; returns the run's id.
  std::string train(const std::string& settings) {
    write("one.yaml", kOneRun);
    const Outcome o = statelab("run one.yaml --threads 1 --device cpu --json " + settings);
    EXPECT_EQ(o.code, 0) << o.err;
    return Json::parse(statelab("ls --json --full-ids").out)["rows"][0]["run"];
  }
  Json json_of(const std::string& command) {
    const Outcome o = statelab(command + " --json");
    EXPECT_EQ(o.code, 0) << command << ": " << o.err;
    return Json::accept(o.out) ? Json::parse(o.out) : Json();
  }
  void expect_refused(const std::string& command, const std::string& reason) {
    const Outcome o = statelab(command);
    EXPECT_EQ(o.code, 2) << command;
    EXPECT_EQ(o.out, "") << command;
    EXPECT_NE(o.err.find(reason), std::string::npos) << command << ": " << o.err;
  }
  SafetensorsFile read(const std::string& name) {
    return read_safetensors(text_of(folder_ / name));
  }
  void write_file(const std::string& name, const SafetensorsFile& file) {
    write(name, write_safetensors(file.tensors, file.metadata));
  }
};

TEST_F(InterchangeCommand, WhatExportWritesImportMakesTheSameRunForEveryMixer) {
  for (const std::string& settings :
       {std::string(
            "model.mixer=mamba3 model.rotation=none model.discretization=half model.bc_bias=false"),
        std::string("model.mixer=mamba2"),
        std::string("model.mixer=gated_delta_net model.conv=true"),
        std::string("model.mixer=delta_net model.ngroups=2"), std::string("model.mixer=lstm")}) {
    SCOPED_TRACE(settings);
    for (const char* db : {"statelab.db", "other.db"}) {
      fs::remove(folder_ / db);
      fs::remove_all(folder_ / (std::string(db) + ".d"));
    }
    const std::string id = train(settings);
    const Json exported = json_of("export " + id + " --output a.safetensors");
    EXPECT_EQ(exported["run"], id);
    EXPECT_EQ(exported["step"], 6);
    EXPECT_EQ(exported["checkpoint"], "last");
    const Json imported = json_of("import a.safetensors --db other.db");
    EXPECT_EQ(imported["run"], id);
    EXPECT_EQ(imported["added"], true);
    EXPECT_EQ(json_of("import a.safetensors --db other.db")["added"], false);
    EXPECT_EQ(json_of("import a.safetensors")["added"], false) << "the run that it came from";
    json_of("export " + id + " --db other.db --output b.safetensors");
    EXPECT_EQ(text_of(folder_ / "a.safetensors"), text_of(folder_ / "b.safetensors"));

    const std::string eval = "eval " + id + " --lengths 12 --samples 16 --device cpu";
    EXPECT_EQ(json_of(eval + " --db other.db"), json_of(eval));
    const Outcome shown = statelab("show " + id + " --db other.db");
    EXPECT_EQ(shown.code, 0);
    EXPECT_NE(shown.out.find("imported"), std::string::npos) << shown.out;
    EXPECT_NE(shown.out.find("a.safetensors"), std::string::npos) << "the source";
    EXPECT_EQ(json_of("inspect " + id + " --db other.db"), json_of("inspect " + id));
    // Imported is final: nothing is trained again.
    const Json dry = json_of("run one.yaml --db other.db --dry-run " + settings);
    EXPECT_EQ(dry["rows"][0]["state"], "done");
  }
}

TEST_F(InterchangeCommand, ExportPrintsPythonThatLoadsTheFileAndWhatItMustKnow) {
  const std::string id = train("");
  const Outcome o = statelab("export " + id + " --output 'my \"run\".safetensors'");
  ASSERT_EQ(o.code, 0) << o.err;
  for (const char* part :
       {"names of mamba_ssm", "config = MambaConfig(d_model=8, ", "pad_vocab_size_multiple=1",
        "# model.a_activation: softplus is Mamba-3 as first released",
        "model = MambaLMHeadModel(config)",
        "model.load_state_dict(load_file(\"my \\\"run\\\".safetensors\"), strict=True)"}) {
    EXPECT_NE(o.out.find(part), std::string::npos) << part << "\n" << o.out;
  }
  const Outcome bytes = statelab("export " + id + " --output -");
  EXPECT_EQ(bytes.out, text_of(folder_ / "my \"run\".safetensors"));
  EXPECT_NE(bytes.err.find("MambaLMHeadModel"), std::string::npos);
  write("lines.py", o.out);
  if (std::system("python3 --version > /dev/null 2>&1") == 0) {
    const std::string check = "python3 -c \"import ast; ast.parse(open('" +
                              (folder_ / "lines.py").string() + "').read())\"";
    EXPECT_EQ(std::system(check.c_str()), 0) << o.out;
  }
  const auto metadata = read("my \"run\".safetensors").metadata;
  EXPECT_EQ(metadata.at("format"), "pt");
  EXPECT_EQ(metadata.at("statelab.run_id"), id);
  EXPECT_EQ(metadata.at("statelab.layout"), "mamba_ssm");
  EXPECT_EQ(Json::parse(metadata.at("statelab.config"))["model"]["d_state"], 4);
}

TEST_F(InterchangeCommand, TheBestCheckpointIsExportedWhereTheScoresBelongToIt) {
  const std::string id = train("eval.select=best");
  EXPECT_EQ(json_of("export " + id + " --output a.safetensors")["checkpoint"], "best");
  EXPECT_EQ(json_of("export " + id + " --checkpoint last --output b.safetensors")["step"], 6);
  EXPECT_EQ(json_of("import a.safetensors --db other.db")["added"], true);
  EXPECT_EQ(statelab("eval " + id + " --lengths 8 --db other.db --device cpu").code, 0)
      << "the best weights are there";
}

TEST_F(InterchangeCommand, SwitchesWithoutCounterpartAreRefusedAndKeptByTheOwnLayout) {
  const std::string id = train("model.discretization=euler model.rotation=standard");
  expect_refused("export " + id,
                 "model.rotation: the authors' Mamba-3 has no rotation by fixed frequencies");
  expect_refused("export " + id, "train with model.discretization=trapezoidal or half");
  EXPECT_FALSE(fs::exists(folder_ / (id.substr(0, 12) + ".safetensors")));
  EXPECT_EQ(json_of("export " + id + " --layout statelab --output a.safetensors")["layout"],
            "statelab");
  EXPECT_EQ(json_of("import a.safetensors --db other.db")["run"], id);
}

TEST_F(InterchangeCommand, OtherWeightsForAKnownRunAreRefusedAndNothingIsOverwritten) {
  const std::string id = train("");
  json_of("export " + id + " --output a.safetensors");
  auto file = read("a.safetensors");
  file.tensors[0].data[0] += 1;
  write_file("changed.safetensors", file);
  expect_refused("import changed.safetensors",
                 "is in this database already, finished at step 6, with other weights");
  json_of("export " + id + " --output b.safetensors");
  EXPECT_EQ(text_of(folder_ / "a.safetensors"), text_of(folder_ / "b.safetensors"));
  EXPECT_EQ(json_of("import changed.safetensors --db other.db")["added"], true);
}

TEST_F(InterchangeCommand, APlainFileNeedsAConfigurationAndTakesTheRunThatItDescribes) {
  const std::string id = train("");
  json_of("export " + id + " --output a.safetensors");
  auto file = read("a.safetensors");
  file.metadata = {{"format", "pt"}};
  write_file("plain.safetensors", file);
  expect_refused("import plain.safetensors --db plain.db", "give one with --config run.yaml");
  write("two.yaml", std::string(kOneRun) + "seeds: 2\n");
  expect_refused("import plain.safetensors --config two.yaml --db plain.db",
                 "describes 2 runs, import takes one");
  expect_refused("import plain.safetensors --config absent.yaml --db plain.db", "absent.yaml");
  write("wide.yaml", std::string(kOneRun) + "parameters: { model.d_model: { value: 16 } }\n");
  expect_refused("import plain.safetensors --config wide.yaml --db plain.db",
                 "backbone.embedding.weight: shape must be (3, 16), is (3, 8)");
  EXPECT_FALSE(fs::exists(folder_ / "plain.db"));
  const Json imported = json_of("import plain.safetensors --config one.yaml --db plain.db");
  EXPECT_EQ(imported["run"], id);
  EXPECT_EQ(imported["step"], 0) << "nobody knows how long it was trained";
  const std::string eval = "eval " + id + " --lengths 12 --samples 16 --device cpu";
  EXPECT_EQ(json_of(eval + " --db plain.db")["rows"], json_of(eval)["rows"]);
}

TEST_F(InterchangeCommand, APlainFilesLayoutIsRecognisedByItsNames) {
  const std::string id = train("model.mixer=gated_delta_net");
  write("gdn.yaml",
        std::string(kOneRun) + "parameters: { model.mixer: { value: gated_delta_net } }\n");
  for (const char* layout : {"official", "statelab"}) {
    json_of("export " + id + " --output a.safetensors --layout " + layout);
    auto file = read("a.safetensors");
    file.metadata.clear();
    write_file("plain.safetensors", file);
    const std::string db = std::string(layout) + ".db";
    const Json imported = json_of("import plain.safetensors --config gdn.yaml --db " + db);
    EXPECT_EQ(imported["run"], id);
    EXPECT_EQ(imported["layout"] == "statelab", std::string(layout) == "statelab");
  }
}

TEST_F(InterchangeCommand, MalformedFilesAreRefusedWithTheReasonAndCreateNoDatabase) {
  const std::string id = train("");
  json_of("export " + id + " --output a.safetensors");
  const std::string good = text_of(folder_ / "a.safetensors");
  const std::string import = "import bad.safetensors --db new.db";
  expect_refused(import, "cannot read bad.safetensors");
  write("bad.safetensors", good.substr(0, good.size() - 4));
  expect_refused(import, "not a well-formed safetensors file: ");
  write("bad.safetensors", "{}");
  expect_refused(import, "shorter than its 8-byte header length");

  const auto damaged = [&](auto damage, const std::string& reason) {
    auto file = read("a.safetensors");
    damage(file);
    write_file("bad.safetensors", file);
    expect_refused(import, reason);
  };
  using File = SafetensorsFile;
  damaged([](File& f) { f.tensors.erase(f.tensors.begin()); },
          "backbone.embedding.weight (3, 8) is missing");
  damaged([](File& f) { f.tensors[0].data[0] = 0.f / 0.f; }, "element 0 is not finite");
  damaged([](File& f) { f.metadata["statelab.format"] = "statelab-interchange-9"; },
          "statelab.format must be statelab-interchange-1, is statelab-interchange-9");
  damaged([](File& f) { f.metadata["statelab.config"] = "{"; }, "statelab.config: ");
  damaged([](File& f) { f.metadata["statelab.config"] = std::string(1000000, '['); },
          "statelab.config is nested too deeply");
  damaged([](File& f) { f.metadata["statelab.run_id"] = std::string(64, '0'); },
          "statelab.run_id must follow from statelab.config");
  damaged([](File& f) { f.metadata["statelab.step"] = "6x"; },
          "statelab.step must be an integer of at least 0, is \"6x\"");
  damaged([](File& f) { f.metadata.erase("statelab.step"); },
          "statelab.step must be an integer of at least 0, is \"\"");
  damaged([](File& f) { f.metadata["statelab.layout"] = "onnx"; },
          "layout must be mamba_ssm or statelab");
  EXPECT_FALSE(fs::exists(folder_ / "new.db"));
}

TEST_F(InterchangeCommand, InspectShowsTransitionsBySymbolAsTableAndJson) {
  const std::string id = train("");
  const Json tables = json_of("inspect " + id);
  ASSERT_TRUE(tables.is_array());
  EXPECT_EQ(tables[0]["key"], "transitions");
  EXPECT_EQ(tables[1]["key"], "clocks");
  // 2 heads x (decay, 1 pair) x symbols 0, 1 (d_state 4, half of it rotates)
  ASSERT_EQ(tables[0]["rows"].size(), 8u);
  for (const Json& row : tables[0]["rows"]) {
    EXPECT_LE(row["min"], row["q1"]);
    EXPECT_LE(row["q1"], row["median"]);
    EXPECT_LE(row["median"], row["q3"]);
    EXPECT_LE(row["q3"], row["max"]);
    EXPECT_GT(row["count"], 0);
    EXPECT_EQ(row["quantity"] == "angle", !row["pair"].is_null());
  }
  const Json one = json_of("inspect " + id + " --task-tokens 1 --samples 8 --length 5");
  ASSERT_EQ(one[0]["rows"].size(), 4u);
  for (const Json& row : one[0]["rows"]) EXPECT_EQ(row["symbol"], "1");
  const Outcome text = statelab("inspect " + id);
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("learned transitions, 64 test sequences of length 8"), std::string::npos)
      << text.out;
  expect_refused("inspect " + id + " --task-tokens x",
                 "no input symbol x in the sampled sequences; there are 0, 1");
  expect_refused("inspect " + id + " --length 1", "length");
}

TEST_F(InterchangeCommand, InspectKnowsTheTransitionOfEachMixer) {
  const std::pair<const char*, std::vector<std::string>> mixers[] = {
      {"mamba2", {"decay"}},
      {"gated_delta_net", {"decay", "eigenvalue"}},
      {"delta_net", {"eigenvalue"}},
      {"lstm", {"forget_gate"}},
      {"mamba3 model.rotation=none", {"decay"}}};
  for (const auto& [mixer, quantities] : mixers) {
    fs::remove(folder_ / "statelab.db");
    const std::string id = train(std::string("model.mixer=") + mixer);
    const Json table = json_of("inspect " + id);
    ASSERT_TRUE(table.is_object()) << mixer << " has no phase";
    std::vector<std::string> found;
    for (const Json& row : table["rows"]) {
      const std::string name = row["quantity"];
      if (std::find(found.begin(), found.end(), name) == found.end()) found.push_back(name);
      EXPECT_GE(row["min"], -1);
      EXPECT_LE(row["max"], 1);
    }
    EXPECT_EQ(found, quantities) << mixer;
  }
}

}  // namespace
}  // namespace statelab::testing
