// node build.js SOURCE WIT-DIRECTORY WORLD RESULT: makes a component of a JavaScript file.

import { writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [sourcePath, witPath, worldName, result] = process.argv.slice(2);
const { component } = await componentize({ sourcePath, witPath, worldName });
await writeFile(result, component);
