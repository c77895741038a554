// The card's registers: the generated AXI4-Lite block with plain ports, and the counters.
//
// start_o is ap_start: high from the driver's write until ready_i. done_i sets ap_done and, where
// enabled, the interrupt. AP_IDLE reads 0 from the write of ap_start on.
// soft_reset_o is a pulse of one cycle; with it ap_start, ap_done, ap_ready, ISR, TAIL and the
// counters return to zero. Register map: docs/registers.md.
`default_nettype none

module residue_regs #(
  parameter int unsigned WordBits        = 51,
  parameter int unsigned DigitsPerWord   = 1,
  parameter int unsigned Elements        = 21,
  parameter int unsigned Rings           = 1,
  parameter int unsigned Masters         = 1,
  parameter int unsigned AxiDataBits     = 128,
  parameter int unsigned MaxModulusBits  = 4096,
  parameter int unsigned MaxExponentBits = 4096,
  parameter int unsigned Contexts        = 128,
  parameter int unsigned MaxWords        = 82,   // digits of the largest modulus
  parameter int unsigned TableEntries    = 520
) (
  input  wire  logic        clk,
  input  wire  logic        rst_n,
  // AXI4-Lite
  input  wire  logic [11:0] s_axil_awaddr,
  input  wire  logic [2:0]  s_axil_awprot,
  input  wire  logic        s_axil_awvalid,
  output       logic        s_axil_awready,
  input  wire  logic [31:0] s_axil_wdata,
  input  wire  logic [3:0]  s_axil_wstrb,
  input  wire  logic        s_axil_wvalid,
  output       logic        s_axil_wready,
  output       logic [1:0]  s_axil_bresp,
  output       logic        s_axil_bvalid,
  input  wire  logic        s_axil_bready,
  input  wire  logic [11:0] s_axil_araddr,
  input  wire  logic [2:0]  s_axil_arprot,
  input  wire  logic        s_axil_arvalid,
  output       logic        s_axil_arready,
  output       logic [31:0] s_axil_rdata,
  output       logic [1:0]  s_axil_rresp,
  output       logic        s_axil_rvalid,
  input  wire  logic        s_axil_rready,
  // Control
  output       logic        start_o,
  input  wire  logic        ready_i,       // pulse: the start was taken
  input  wire  logic        done_i,        // pulse: the queue was worked off
  input  wire  logic        idle_i,        // nothing runs, nothing is outstanding on the bus
  output       logic        soft_reset_o,
  output       logic        interrupt_o,
  output       logic [63:0] queue_base_o,
  output       logic [15:0] queue_size_o,
  output       logic [15:0] tail_o,
  input  wire  logic [15:0] head_i,
  output       logic [63:0] mem_base_o,
  output       logic [63:0] mem_limit_o,
  // How many to count in this cycle
  input  wire  logic [7:0]  inc_busy_i,
  input  wire  logic [7:0]  inc_products_i,
  input  wire  logic [15:0] inc_read_bytes_i,
  input  wire  logic [15:0] inc_write_bytes_i,
  input  wire  logic [7:0]  inc_stalls_i,
  input  wire  logic        inc_commands_i,
  input  wire  logic        inc_errors_i
);

  localparam int unsigned BeatBytes = AxiDataBits / 8;

  if (WordBits > 255 || Elements > 255 || Rings > 255 || Masters > 255 || MaxModulusBits > 65535 ||
      MaxExponentBits > 65535 || Contexts > 65535 || MaxWords > 65535 || TableEntries > 65535)
  begin : g_capability_illegal
    $error("a parameter does not fit its capability field");
  end

  residue_regs_block_pkg::residue_regs__in_t  block_in;
  residue_regs_block_pkg::residue_regs__out_t block_out;

  residue_regs_block i_block (
    .clk           (clk),
    .rst_n         (rst_n),
    .s_axil_awready(s_axil_awready),
    .s_axil_awvalid(s_axil_awvalid),
    .s_axil_awaddr (s_axil_awaddr),
    .s_axil_awprot (s_axil_awprot),
    .s_axil_wready (s_axil_wready),
    .s_axil_wvalid (s_axil_wvalid),
    .s_axil_wdata  (s_axil_wdata),
    .s_axil_wstrb  (s_axil_wstrb),
    .s_axil_bready (s_axil_bready),
    .s_axil_bvalid (s_axil_bvalid),
    .s_axil_bresp  (s_axil_bresp),
    .s_axil_arready(s_axil_arready),
    .s_axil_arvalid(s_axil_arvalid),
    .s_axil_araddr (s_axil_araddr),
    .s_axil_arprot (s_axil_arprot),
    .s_axil_rready (s_axil_rready),
    .s_axil_rvalid (s_axil_rvalid),
    .s_axil_rdata  (s_axil_rdata),
    .s_axil_rresp  (s_axil_rresp),
    .hwif_in       (block_in),
    .hwif_out      (block_out)
  );

  assign start_o      = block_out.CTRL.AP_START.value;
  assign soft_reset_o = block_out.SOFT_RESET.RESET.value;
  assign interrupt_o  = block_out.GIE.ENABLE.value && block_out.ISR.DONE.value;
  assign queue_base_o = {block_out.QUEUE_BASE_HI.VALUE.value, block_out.QUEUE_BASE_LO.VALUE.value};
  assign queue_size_o = block_out.QUEUE_SIZE.VALUE.value;
  assign tail_o       = block_out.TAIL.VALUE.value;
  assign mem_base_o   = {block_out.MEM_BASE_HI.VALUE.value, block_out.MEM_BASE_LO.VALUE.value};
  assign mem_limit_o  = {block_out.MEM_LIMIT_HI.VALUE.value, block_out.MEM_LIMIT_LO.VALUE.value};

  wire logic done = done_i && !soft_reset_o;

  assign block_in.CTRL.AP_START.hwclr         = ready_i || soft_reset_o;
  assign block_in.CTRL.AP_DONE.hwset          = done;
  assign block_in.CTRL.AP_DONE.hwclr          = soft_reset_o;
  assign block_in.CTRL.AP_IDLE.next           = idle_i && !start_o;
  assign block_in.CTRL.AP_READY.hwset         = ready_i && !soft_reset_o;
  assign block_in.CTRL.AP_READY.hwclr         = soft_reset_o;
  assign block_in.ISR.DONE.hwset              = done && block_out.IER.DONE.value;
  assign block_in.ISR.DONE.hwclr              = soft_reset_o;
  assign block_in.TAIL.VALUE.hwclr            = soft_reset_o;
  assign block_in.HEAD.VALUE.next             = head_i;
  assign block_in.CAP0.WORD_BITS.next         = 8'(WordBits);
  assign block_in.CAP0.ELEMENTS.next          = 8'(Elements);
  assign block_in.CAP0.RINGS.next             = 8'(Rings);
  assign block_in.CAP0.LOG2_AXI_BYTES.next    = 8'($clog2(BeatBytes));
  assign block_in.CAP1.MAX_MODULUS_BITS.next  = 16'(MaxModulusBits);
  assign block_in.CAP1.MAX_EXPONENT_BITS.next = 16'(MaxExponentBits);
  assign block_in.CAP2.CONTEXTS.next          = 16'(Contexts);
  assign block_in.CAP2.MAX_WORDS.next         = 16'(MaxWords);
  assign block_in.CAP3.TABLE_ENTRIES.next     = 16'(TableEntries);
  assign block_in.CAP4.DIGITS_PER_WORD.next   = 8'(DigitsPerWord);
  assign block_in.CAP4.MASTERS.next           = 8'(Masters);

  residue_regs_counters i_counters (
    .clk              (clk),
    .rst_n            (rst_n),
    .clear_i          (soft_reset_o),
    .inc_cycles_i     (!idle_i),
    .inc_busy_i       (inc_busy_i),
    .inc_products_i   (inc_products_i),
    .inc_read_bytes_i (inc_read_bytes_i),
    .inc_write_bytes_i(inc_write_bytes_i),
    .inc_stalls_i     (inc_stalls_i),
    .inc_commands_i   (inc_commands_i),
    .inc_errors_i     (inc_errors_i),
    .req_i            (block_out.COUNTERS.req),
    .req_is_write_i   (block_out.COUNTERS.req_is_wr),
    .req_register_i   (block_out.COUNTERS.addr[5:2]),
    .read_ack_o       (block_in.COUNTERS.rd_ack),
    .write_ack_o      (block_in.COUNTERS.wr_ack),
    .read_data_o      (block_in.COUNTERS.rd_data)
  );

endmodule

`default_nettype wire
