// A round trip with the types that openapi-typescript makes of the service's own document.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Enrollment = components["schemas"]["Enrollment"];
type Started = { url: string; keys: Record<string, string>; pictures: string };

const started = JSON.parse(readFileSync(process.argv[2]!, "utf8")) as Started;
const client = createClient<paths>({
  baseUrl: started.url,
  headers: { authorization: `Bearer ${started.keys["outlet"]}` },
});
const read = (name: string): string =>
  readFileSync(`${started.pictures}/${name}.png`).toString("base64");

async function enroll(number: string, key: string, captured: string): Promise<Enrollment> {
  const { data, error } = await client.POST("/v1/enrollments", {
    params: { header: { "Idempotency-Key": key } },
    body: {
      document: { type: "cn-ric", number, name: "Sandra Sand" },
      msisdn: "+8613800138111",
      live: read("anybody-1"),
      portrait: read("anybody-2"),
      consent_ref: "C-1",
      captured_at: captured,
    },
  });
  if (!data) throw new Error(`refused: ${error?.code}`);
  return data;
}

function expect(is: boolean, what: string): void {
  if (!is) throw new Error(`not as promised: ${what}`);
}

const key = randomUUID();
const captured = new Date().toISOString();
const approved = await enroll("110105199003070009", key, captured);
expect(approved.decision === "approved", "an approval");
const again = await enroll("110105199003070009", key, captured);
expect(again.is_repeated && again.enrollment_id === approved.enrollment_id, "the stored answer");
const rejected = await enroll("110105199003079011", randomUUID(), captured);
expect(rejected.reasons[0]?.reason === "FACE_MISMATCH", "a reason");
const { data: record } = await client.GET("/v1/enrollments/{enrollment_id}", {
  params: { path: { enrollment_id: approved.enrollment_id } },
});
expect(record?.decision === "approved", "the record");
const { error, response } = await client.GET("/v1/enrollments/{enrollment_id}", {
  params: { path: { enrollment_id: randomUUID() } },
});
expect(response.status === 404 && error?.status === 404, "an error with its code");
console.log("TypeScript: 5 answers as promised");
