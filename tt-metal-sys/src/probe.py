# What a Python interpreter says about itself, as one line of JSON. Run by discovery.rs in a process of its own.

import importlib.util
import json
import sys
import sysconfig
from importlib import metadata

# An interpreter inside another program does not look into the working directory.
sys.path[:] = [folder for folder in sys.path if folder]

try:
    version = metadata.version("ttnn")
except metadata.PackageNotFoundError:
    version = None

variable = sysconfig.get_config_var
print()
print(
    json.dumps(
        {
            "executable": sys.executable,
            "major": sys.version_info[0],
            "minor": sys.version_info[1],
            "shared": bool(variable("Py_ENABLE_SHARED")),
            "library": variable("INSTSONAME"),
            "folders": [folder for folder in (variable("LIBDIR"), sys.base_prefix + "/lib") if folder],
            "platform": variable("MULTIARCH"),
            "ttnn": version if importlib.util.find_spec("ttnn") else None,
        }
    )
)
