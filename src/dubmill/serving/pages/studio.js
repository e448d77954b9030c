"use strict";
// Shared by the pages of the studio: messages, answers of the server, its state, and jobs that are followed.
// A page has `onAbout(isFirst)`, called when the server has said what it serves, and `refresh()`, which enables its buttons.
const $ = id => document.getElementById(id);
let about = null, timer = null, busy = false, numShown = 0;

function showMessage(sentence, bad) {
  $("message").hidden = !sentence;
  $("message").textContent = sentence || "";
  $("message").classList.toggle("bad", Boolean(bad));
}
async function checked(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Error(body.error || `the server answered ${response.status}`);
}
async function json(path, options) { return (await checked(await fetch(path, options))).json(); }
async function poll() {
  const was = about;
  try {
    about = await json("v1/dub");
    $("state").className = about.ready ? "ready" : "";
    const queue = about.pending ? `, ${about.pending} dub${about.pending > 1 ? "s" : ""} running or waiting` : "";
    $("state").textContent = about.ready ? `ready${queue}` : about.reason;
    await onAbout(!was);
  } catch (error) {
    $("state").className = "gone";
    $("state").textContent = "the server does not answer";
    if (about) about.ready = false;
  }
  refresh();
  clearTimeout(timer);
  timer = setTimeout(poll, busy || !about || !about.ready ? 700 : 5000);
}
function followed(job, onStatus) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(job.links.events.slice(1));
    events.addEventListener("status", event => onStatus(JSON.parse(event.data)));
    events.addEventListener("end", event => {
      events.close();
      const last = JSON.parse(event.data);
      if (last.state === "done") resolve(last);
      else reject(new Error(last.problem ? last.problem.detail : `the job was ${last.state}`));
    });
  });
}
function fillLanguages(select, languages, skipped = []) {
  const known = new Set([...select.options].map(option => option.value));
  for (const {tag, name} of languages)
    if (!known.has(tag) && !skipped.includes(tag)) select.append(new Option(`${name} (${tag})`, tag));
}
function consentOf(who) { return `${who}, the person shown, agrees to being dubbed (confirmed in the studio)`; }
function sentences(notes) { return notes.map(note => `${note[0].toUpperCase()}${note.slice(1)}.`).join(" "); }
async function showFacts(done) {  // what is known of a dub: figures of its job, and the credentials that the server reads in its file
  const list = $("facts"), result = done && done.result, number = ++numShown;
  list.replaceChildren(); list.hidden = !done;
  if (!done) return;
  const add = (name, words, kind) => {
    const text = Object.assign(document.createElement("dd"), {textContent: words, className: kind || ""});
    list.append(Object.assign(document.createElement("dt"), {textContent: name}), text);
  };
  add("Dub", `${result.seconds.toFixed(2)} s in ${Math.max(0, (new Date(done.finished) - new Date(done.started)) / 1000).toFixed(0)} s, ${result.size}, ${(result.num_bytes / 1e6).toFixed(2)} MB`);
  add("Model", `version ${result.model_version}, seed ${result.seed}, into ${result.language}`);
  add("Consent", `entry ${result.consent_entry.slice(0, 16)}… of the ledger`);
  const found = await json(done.links.credentials.slice(1)).catch(error => ({failures: [error.message]}));
  if (number !== numShown) return;  // another dub is shown meanwhile
  if (found.is_readable === false) return add("Credentials", `cannot be read, the file is damaged (${found.failures.join()})`, "bad");
  if (!found.has_manifest) return add("Credentials", found.failures.join() || "none: this server does not sign its dubs");
  const trust = found.is_development ? ", a development certificate that no viewer trusts" : "";
  const signer = found.issuer ? `signed by ${found.signer || "a signer"} (${found.issuer})` : "its signature cannot be read";
  add("Credentials", `C2PA, ${signer}${trust}`, !found.issuer ? "bad" : found.is_development ? "warn" : "fine");
  add("File", found.is_unchanged ? "as it was signed" : `changed since it was signed (${found.failures.join(", ")})`, found.is_unchanged ? "fine" : "bad");
}
function dropped(screen, take) {  // files that are dropped on an element
  for (const kind of ["dragover", "dragleave", "drop"]) screen.addEventListener(kind, event => {
    event.preventDefault();
    screen.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
