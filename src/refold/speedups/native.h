/* What refold does for every message, in C. Optional: the same is done in Python where this was not built, and tests hold
 * the two together.
 */
#ifndef REFOLD_NATIVE_H
#define REFOLD_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

/* -- frames.c: messages off the wire ------------------------------------------------------------------------------- */

/* Where a message lies in its buffer: tokens of the subject, header block, body. */
typedef struct {
    long long position;
    uint32_t type, id, name, subject_end; /* tokens begin here; one character is between them */
    uint32_t headers, body, end;          /* no headers where they begin at the body */
} Message;

typedef struct {
    PyObject_HEAD
    char *data;
    Py_ssize_t capacity, filled, parsed;
    Message *messages;
    Py_ssize_t count, room;
    long long last;     /* position of the last message, kept or not */
    PyObject *owner; /* the parser that takes the memory back; NULL while it has it */
} Frames;

extern PyTypeObject Frames_Type, Parser_Type;

long long parse_number(const char *start, const char *end);
PyObject *text_of(const char *start, Py_ssize_t size);
PyObject *headers_of(const Frames *frames, const Message *message);
PyObject *body_of(const Frames *frames, const Message *message);

/* -- payload.c: JSON objects to structs ------------------------------------------------------------------------------ */

#define STAMP_SIZE 27 /* "2026-01-31T12:00:00.123456Z" */

/* A time as text and as datetime. */
typedef struct {
    const char *text;
    PyObject *value;
} Stamp;

typedef struct StructDecoder StructDecoder;

extern PyTypeObject StructDecoder_Type;

PyObject *ascii_str(const char *text, Py_ssize_t size);
PyObject *struct_of(StructDecoder *decoder, const char *start, const char *end, const Stamp *stamp);

/* -- envelope.c: refold's own envelope, as its publisher writes it -------------------------------------------------- */

enum { E_ID, E_AGGREGATE_ID, E_TYPE, E_AGGREGATE_TYPE, E_TIMESTAMP, E_VERSION, E_PAYLOAD, E_PAYLOAD_VERSION, E_POSITION,
       E_HEADERS, E_FIELDS };

typedef struct {
    PyObject_HEAD
    PyObject *slow;    /* (body, headers) -> event, for whatever is written in another way */
    PyObject *payload; /* bytes -> payload */
    StructDecoder *quick; /* the same for what is as usual; NULL where there is none */
    PyTypeObject *event_class;
    PyObject *payload_version;
    PyObject *spare; /* an event that nobody holds, to be used again; NULL where there is none */
    long long version;
    Py_ssize_t at[E_FIELDS];
} EnvelopeDecoder;

extern PyTypeObject EnvelopeDecoder_Type;

PyObject *timestamp_of(const char *text, Py_ssize_t size);
int is_plain(const char *text, Py_ssize_t size);
int slots_of(PyObject *type, const char *const *names, int count, Py_ssize_t *at);
int envelope_init(void);
PyObject *envelope_event(EnvelopeDecoder *decoder, const Frames *frames, const Message *message, PyObject *id,
                         PyObject *aggregate_type, PyObject *event_type);

/* -- views.c: views by key ------------------------------------------------------------------------------------------ */

typedef struct {
    Py_hash_t hash;
    PyObject *key, *view; /* key is NULL in an empty slot */
} Slot;

typedef struct {
    PyObject_HEAD
    Slot *slots;
    size_t mask; /* number of slots, a power of two, less one */
    Py_ssize_t used;
} Views;

extern PyTypeObject Views_Type;

Py_hash_t hash_of(const char *text, Py_ssize_t size);
Slot *views_find(const Views *views, PyObject *key);
Slot *views_find_text(const Views *views, Py_hash_t hash, const char *text, Py_ssize_t size);
Slot *views_peek(const Views *views, Py_hash_t hash);

/* -- rows.c: views to rows, and to what databases take ------------------------------------------------------------------ */

extern PyTypeObject RowCodec_Type;

int rows_init(void);

/* -- fold.c: events into views -------------------------------------------------------------------------------------- */

extern PyTypeObject OwnStep_Type;

PyObject *dispatch(PyObject *module, PyObject *args);

#define SLOT(object, at) (*(PyObject **)((char *)(object) + (at)))

#endif
