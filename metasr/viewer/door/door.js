// The door: sends a volume, and goes to its page.

const $ = (id) => document.getElementById(id);
const button = document.querySelector("button");

async function send() {
  const headers = { Authorization: `Bearer ${$("secret").value}` };
  const answer = await fetch("../", { method: "POST", headers, body: $("file").files[0] });
  const told = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (!answer.ok) throw new Error(told.error);
  location.assign(told.page);
}

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  $("message").textContent = "sending";
  try {
    await send();
  } catch (error) {
    $("message").textContent = error.message;
  } finally {
    button.disabled = false;
  }
});
