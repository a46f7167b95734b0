#!/usr/bin/env bash
# coremltools 9.0 writes a package anew when it only reads it: `coremltools.models.utils.load_spec` (and `MLModel`, which
# calls it) replaces Manifest.json of a valid .mlpackage by its own formatting of the same JSON. Whoever signs, hashes or
# caches packages by their bytes sees a changed file after a look at it; the model and weights stay as they were. Here a
# package is saved by coremltools, its Manifest.json written again without spaces, and loaded. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 numpy==2.3.5
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import hashlib, json, pathlib
import coremltools as ct
from coremltools.converters.mil import Builder as mb

@mb.program(input_specs=[mb.TensorSpec(shape=(1, 4))])
def program(x):
    return mb.relu(x=x)

ct.convert(program, convert_to="mlprogram", skip_model_load=True).save("m.mlpackage")
package = pathlib.Path("m.mlpackage")
manifest = package / "Manifest.json"
manifest.write_text(json.dumps(json.loads(manifest.read_text()), separators=(",", ":")))

def digests():
    return {str(p.relative_to(package)): hashlib.sha256(p.read_bytes()).hexdigest()[:12]
            for p in sorted(package.rglob("*")) if p.is_file()}

before, content = digests(), json.loads(manifest.read_text())
ct.models.utils.load_spec(str(package))
after = digests()
changed = [name for name in before if before[name] != after.get(name)]
print(f"coremltools {ct.__version__}: load_spec changed {changed}, the JSON says the same:",
      json.loads(manifest.read_text()) == content)
raise SystemExit(changed != ["Manifest.json"] or json.loads(manifest.read_text()) != content)
PY
